// How is a text written? The settings, remembered in this browser, and the form that changes them.

import { el, memory } from "./dom.js";

const FIELDS = [
  { name: "temperature", label: "Temperature", most: 2, step: 0.05, usual: 0.7, range: true, about: "0 takes the likeliest; more is bolder" },
  { name: "top_p", label: "Top-p", least: 0.01, most: 1, step: 0.01, usual: 1, neutral: 1, range: true, about: "the likeliest that make up so much; 1 keeps all" },
  { name: "min_p", label: "Min-p", most: 1, step: 0.01, usual: 0, neutral: 0, range: true, about: "at least so much of the likeliest; 0 keeps all" },
  { name: "top_k", label: "Top-k", most: 100000, step: 1, usual: 0, neutral: 0, about: "so many of the likeliest; 0 keeps all" },
  { name: "repetition_penalty", label: "Repetition penalty", least: 0.1, most: 10, step: 0.05, usual: 1, neutral: 1, about: "over 1 avoids what was said" },
  { name: "max_tokens", label: "Tokens", least: 1, most: 100000, step: 1, usual: 120, about: "at most so many are written" },
  { name: "seed", label: "Seed", least: 0, most: Number.MAX_SAFE_INTEGER, step: 1, usual: "", about: "the same seed, the same text; empty is new each time" },
];
const STOPS = 16;
const NARROW = matchMedia("(max-width: 60rem)");

class Settings extends EventTarget {
  constructor() {
    super();
    const kept = memory.get("settings", {});
    this.values = { stop: typeof kept.stop === "string" ? kept.stop : "" };
    for (const field of FIELDS) this.values[field.name] = checked(field, kept[field.name]) ?? field.usual;
  }

  set(name, value) {
    this.values[name] = value;
    memory.set("settings", this.values);
    this.dispatchEvent(new Event("change"));
  }

  reset() {
    for (const field of FIELDS) this.values[field.name] = field.usual;
    this.set("stop", "");
  }

  // As a request says them: what changes nothing is left out.
  request() {
    const said = {};
    for (const { name, neutral } of FIELDS) {
      const value = this.values[name];
      if (value !== "" && value !== neutral) said[name] = value;
    }
    const stops = this.values.stop.split("\n").filter(Boolean).slice(0, STOPS);
    if (stops.length) said.stop = stops.map((line) => line.replaceAll("\\n", "\n").replaceAll("\\t", "\t"));
    return said;
  }
}

// A value in its bounds, or undefined.
function checked(field, value) {
  if (value === "" && field.usual === "") return "";
  const { least = 0, most, step } = field;
  if (typeof value !== "number" || !(value >= least && value <= most)) return undefined;
  return step === 1 && !Number.isInteger(value) ? undefined : value;
}

export const settings = new Settings();

// The form, as often as it is wanted: all of them show the same values.
export function form(place, id) {
  const inputs = new Map();
  // On a phone the text comes first.
  if (NARROW.matches) place.open = false;
  const rows = FIELDS.map((field) => {
    const { name, label, least = 0, most, step, range, about } = field;
    const bounds = { min: least, max: most, step };
    const number = el("input", { id: `${id}-${name}`, type: "number", ...bounds, inputmode: "decimal", "aria-describedby": `${id}-${name}-about` });
    const slider = range && el("input", { type: "range", ...bounds, tabindex: -1, "aria-hidden": "true" });
    const take = (input) => {
      const value = checked(field, input.value.trim() === "" ? "" : Number(input.value));
      number.setAttribute("aria-invalid", String(value === undefined || input.validity.badInput));
      if (value !== undefined && !input.validity.badInput) settings.set(name, value);
    };
    number.addEventListener("input", () => take(number));
    // What was wrong is gone when the field is left; the last value that was right stands again.
    number.addEventListener("blur", () => show());
    if (slider) slider.addEventListener("input", () => take(slider));
    inputs.set(name, [number, slider].filter(Boolean));
    return el(
      "div",
      { class: "setting" },
      el("label", { for: `${id}-${name}` }, label),
      number,
      slider,
      el("small", { id: `${id}-${name}-about` }, about),
    );
  });
  const stop = el("textarea", { id: `${id}-stop`, rows: 2, autocomplete: "off", spellcheck: "false", "aria-describedby": `${id}-stop-about` });
  stop.addEventListener("input", () => settings.set("stop", stop.value));
  const show = () => {
    for (const [name, all] of inputs) {
      for (const input of all) {
        if (input !== document.activeElement && input.value !== String(settings.values[name])) input.value = settings.values[name];
        if (input !== document.activeElement) input.removeAttribute("aria-invalid");
      }
    }
    if (stop !== document.activeElement) stop.value = settings.values.stop;
  };
  settings.addEventListener("change", show);
  place.append(
    ...rows,
    el("div", { class: "setting" }, el("label", { for: stop.id }, "Stop"), stop, el("small", { id: `${id}-stop-about` }, "texts that end the writing, one a line; \\n is a line end")),
    el("button", { type: "button", class: "quiet", onclick: () => settings.reset() }, "As at first"),
  );
  show();
}

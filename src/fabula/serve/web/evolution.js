// How did the model become what it is? The same beginning, written on by every checkpoint that was kept.

import { ask, stream, tell } from "./api.js";
import { draw, unit } from "./curve.js";
import { el, memory } from "./dom.js";
import { inked, legend, shade, whole } from "./piece.js";

const CALM = matchMedia("(prefers-reduced-motion: reduce)");
const PLAY_SECONDS = 1.2;

export function evolution(page, card) {
  const find = (selector) => page.querySelector(selector);
  const prompt = find("#evolution-prompt");
  const temperature = find("#evolution-temperature");
  const tokens = find("#evolution-tokens");
  const slider = find("#when");
  const strip = find(".strip");
  const problem = find(".problem");
  const status = find("form [role=status]");
  let model = "";
  let checkpoints = [];
  let mark = () => {};
  let telling = null;
  let playing = 0;
  let following = false; // whether the page goes along with the checkpoint that writes

  legend(find(".legend"));
  const kept = memory.get("evolution", {});
  prompt.value = typeof kept.prompt === "string" ? kept.prompt : memory.get("prompt", "");
  temperature.value = kept.temperature > 0 && kept.temperature <= 2 ? kept.temperature : kept.temperature === 0 ? 0 : 0.5;
  tokens.value = kept.tokens >= 1 && kept.tokens <= 200 ? kept.tokens : 60;

  // ---- what was saved ------------------------------------------------------------------------------------------

  async function shown() {
    if (model === card().id) return;
    model = card().id;
    const wanted = model;
    const absent = find(".absent");
    find(".present").hidden = true;
    absent.hidden = false;
    absent.textContent = "Looking for checkpoints …";
    let history;
    try {
      history = await ask(`fabula/checkpoints?model=${encodeURIComponent(model)}`);
    } catch (error) {
      if (model !== wanted) return;
      model = "";
      if (error.code === "no_checkpoints") {
        absent.textContent = "This model comes without a run: there are no earlier checkpoints to compare it with. Serve a run folder to see one grow.";
      } else {
        tell(absent, error, ["Try again", shown]);
      }
      return;
    }
    if (model !== wanted) return;
    checkpoints = history.checkpoints;
    if (!checkpoints.length) {
      absent.textContent = "This run has kept no checkpoint yet.";
      return;
    }
    absent.hidden = true;
    find(".present").hidden = false;
    keys(history.curve);
    mark = draw(find(".curve"), history, choose);
    slider.max = checkpoints.length - 1;
    slider.disabled = checkpoints.length < 2;
    strip.replaceChildren(...checkpoints.map(entry));
    turnTo(checkpoints.length - 1, false);
  }

  function keys(curve) {
    const has = (kind) => curve.some((point) => point.kind === kind);
    const key = (name, text) => el("li", {}, el("span", { class: `key ${name}`, "aria-hidden": "true" }), text);
    find(".keys").replaceChildren(
      el("li", {}, `${unit(curve)}, over steps`),
      has("train") ? key("train", "training") : "",
      has("evaluation") ? key("validation", "text not trained on") : "",
      key("saved", "checkpoint"),
    );
  }

  const quality = ({ bits_per_byte: bits }) => (bits === null ? "not measured" : `${bits.toFixed(4)} bits per byte`);

  function entry(checkpoint, index) {
    const { step, name } = checkpoint;
    const last = index === checkpoints.length - 1 && index > 0;
    const head = el("button", { type: "button", onclick: () => choose(index) }, el("b", {}, `Step ${whole(step)}`), ` ${quality(checkpoint)}`);
    return el(
      "li",
      { title: name, class: last ? "last" : null },
      head,
      el("p", { class: "text soft", lang: "", dir: "auto", translate: "no" }, "Nothing written yet."),
    );
  }

  function turnTo(index, move) {
    const checkpoint = checkpoints[index];
    slider.value = index;
    slider.setAttribute("aria-valuetext", `step ${whole(checkpoint.step)}, ${quality(checkpoint)}`);
    find(".step").textContent = `Step ${whole(checkpoint.step)}`;
    find(".quality").textContent = quality(checkpoint);
    find(".before").disabled = index === 0;
    find(".after").disabled = index === checkpoints.length - 1;
    mark(index);
    [...strip.children].forEach((item, other) => {
      item.classList.toggle("current", other === index);
      if (other === index) item.setAttribute("aria-current", "true");
      else item.removeAttribute("aria-current");
    });
    const item = strip.children[index];
    const left = item.offsetLeft - strip.offsetLeft - (strip.clientWidth - item.offsetWidth) / 2;
    strip.scrollTo({ left, behavior: move && !CALM.matches ? "smooth" : "instant" });
  }

  const at = () => Number(slider.value);

  // ---- writing -------------------------------------------------------------------------------------------------

  async function write() {
    telling?.abort();
    tell(problem, null);
    const run = new AbortController();
    telling = run;
    const text = prompt.value;
    const items = [...strip.children];
    for (const item of items) {
      const place = item.querySelector(".text");
      place.classList.add("soft");
      place.textContent = "…";
      item.classList.remove("done");
    }
    find(".stop").hidden = false;
    following = true;
    let done = 0;
    let index = -1;
    let place = null;
    let ended = false;
    const settle = (words) => {
      if (place && !ended && place.classList.contains("soft")) place.textContent = words;
    };
    try {
      const said = { model: card().id, prompt: text, max_tokens: Number(tokens.value), temperature: Number(temperature.value), seed: 0 };
      for await (const event of stream("fabula/evolution", said, run.signal)) {
        if (event.kind === "begin") status.textContent = `0 of ${event.checkpoints}`;
        if (event.kind === "checkpoint") {
          settle("It wrote nothing.");
          index = checkpoints.findIndex(({ step }) => step === event.step);
          place = items[index]?.querySelector(".text");
          ended = false;
          status.textContent = `${++done} of ${checkpoints.length}`;
          if (index >= 0 && following) turnTo(index, false);
        }
        if (event.kind === "text" && place) piece(place, text, event);
        if (event.kind === "failed" && place) {
          ended = true;
          place.textContent = event.message;
        }
      }
      settle("It wrote nothing.");
      status.textContent = `${done} checkpoints wrote.`;
    } catch (error) {
      if (telling === run) status.textContent = error.name === "AbortError" ? "Stopped." : "";
      tell(problem, error, ["Try again", write]);
    }
    for (const item of items) {
      const left = item.querySelector(".text.soft");
      if (left?.textContent === "…" && telling === run) left.textContent = "Nothing written yet.";
    }
    if (telling === run) {
      telling = null;
      following = false;
      find(".stop").hidden = true;
    }
  }

  function piece(place, text, { text: said, logprobs, ids }) {
    if (place.classList.contains("soft")) {
      place.classList.remove("soft");
      place.replaceChildren(text ? el("span", { class: "prompt" }, text) : "");
    }
    if (said === "") return;
    // A piece may hold several tokens: their geometric mean.
    const mean = logprobs.reduce((sum, value) => sum + value, 0) / Math.max(1, ids.length);
    place.append(el("span", { class: ids.length ? shade(Math.exp(mean)) : null }, ...inked(said)));
  }

  // ---- controls ------------------------------------------------------------------------------------------------

  const hold = () => {
    following = false;
    clearInterval(playing);
    playing = 0;
    find(".play").setAttribute("aria-pressed", "false");
    find(".play").textContent = "Play";
  };
  function choose(index) {
    hold();
    turnTo(index, true);
  }
  find(".play").addEventListener("click", () => {
    const was = playing;
    hold();
    if (was) return;
    if (at() === checkpoints.length - 1) turnTo(0, true);
    find(".play").setAttribute("aria-pressed", "true");
    find(".play").textContent = "Pause";
    playing = setInterval(() => {
      if (at() < checkpoints.length - 1) turnTo(at() + 1, true);
      else hold();
    }, PLAY_SECONDS * 1000);
  });
  const step = (by) => choose(Math.min(checkpoints.length - 1, Math.max(0, at() + by)));
  slider.addEventListener("input", () => choose(at()));
  find(".before").addEventListener("click", () => step(-1));
  find(".after").addEventListener("click", () => step(1));
  strip.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1 };
    if (!(event.key in moves) || event.target !== strip) return;
    event.preventDefault();
    step(moves[event.key]);
  });
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!event.target.reportValidity()) return;
    memory.set("evolution", { prompt: prompt.value, temperature: Number(temperature.value), tokens: Number(tokens.value) });
    hold();
    write();
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      find("form").requestSubmit();
    }
  });
  find(".stop").addEventListener("click", () => telling?.abort());
  page.addEventListener("keydown", (event) => event.key === "Escape" && telling?.abort());

  return {
    shown,
    changed() {
      telling?.abort();
      hold();
      model = "";
      tell(problem, null);
      status.textContent = "";
    },
  };
}

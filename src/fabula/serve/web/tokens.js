// How does this model's tokenizer cut a text? Any text, with what cannot be seen made visible.

import { ask, tell } from "./api.js";
import { copy, el, memory, paused } from "./dom.js";
import { bytesOf, isText, quoted, said, visible, whole } from "./piece.js";
import { Rove } from "./rove.js";

const MOST = 100000; // characters the server takes
const MOST_SHOWN = 5000; // tokens that are drawn
const TINTS = 4;

export function tokens(page, card) {
  const find = (selector) => page.querySelector(selector);
  const text = find("#text");
  const chips = find(".chips");
  const readout = find(".readout");
  const problem = find(".problem");
  let pieces = [];
  let places = new Map(); // the chips of each id
  let asking = null;

  text.value = memory.get("text", "");

  async function cut() {
    asking?.abort();
    const run = new AbortController();
    asking = run;
    const given = text.value;
    try {
      if ([...given].length > MOST) {
        pieces = [];
        show(given, null);
        problem.hidden = false;
        problem.textContent = `The text has ${whole([...given].length)} characters; the server cuts at most ${whole(MOST)}.`;
        return;
      }
      const made = given === "" ? null : await ask("tokenize", { model: card().id, text: given }, run.signal);
      if (asking !== run) return;
      tell(problem, null);
      pieces = made?.pieces ?? [];
      show(given, made);
    } catch (error) {
      if (asking === run) tell(problem, error, ["Try again", cut]);
    }
  }

  function show(given, made) {
    find(".empty").hidden = made !== null || given !== "";
    find(".cut").hidden = find(".counts").hidden = made === null;
    if (!made) return;
    const bytes = new TextEncoder().encode(given).length;
    const count = (name, value, note) => el("div", {}, el("dt", {}, name), el("dd", {}, el("b", {}, value), note ? el("small", {}, note) : null));
    find(".counts").replaceChildren(
      count("Tokens", whole(made.count), `${Math.round((100 * made.count) / made.context_length)} % of the context`),
      count("Characters", whole([...given].length)),
      count("Bytes", whole(bytes)),
      count("Bytes a token", (bytes / Math.max(1, made.count)).toFixed(2)),
    );
    const ids = find(".ids").checked;
    chips.replaceChildren();
    places = new Map();
    pieces.slice(0, MOST_SHOWN).forEach((piece, index) => {
      const chip = el("span", { class: `chip t${index % TINTS}`, "data-at": index, tabindex: index ? "-1" : "0", role: "img", "aria-label": `${said(piece)}, id ${piece.id}` });
      chip.append(...(ids ? [String(piece.id)] : visible(piece)));
      if (!isText(piece)) chip.classList.add("partial");
      chips.append(chip);
      if (!places.has(piece.id)) places.set(piece.id, []);
      places.get(piece.id).push(chip);
      if (piece.text.endsWith("\n") && !ids) chips.append(el("br"));
    });
    if (pieces.length > MOST_SHOWN) chips.append(el("p", { class: "soft" }, `These are the first ${whole(MOST_SHOWN)}; Copy ids has all.`));
    rest();
  }

  function rest() {
    readout.classList.remove("said");
    readout.textContent = "Point at a token, or move with the arrow keys.";
    for (const same of chips.querySelectorAll(".same")) same.classList.remove("same");
  }

  new Rove(chips, {
    point(element) {
      rest();
      const piece = element && pieces[Number(element.dataset.at)];
      if (!piece) return;
      const equal = places.get(piece.id);
      for (const chip of equal) chip.classList.add("same");
      const often = equal.length > 1 ? `, ${equal.length} times here` : "";
      const kind = piece.control ? "control token" : isText(piece) ? "" : "part of a character";
      readout.classList.add("said");
      readout.replaceChildren(
        el("b", {}, quoted(piece)),
        ` id ${piece.id}; ${piece.bytes.length === 1 ? "byte" : `${piece.bytes.length} bytes`} ${bytesOf(piece)}${often}${kind && `; ${kind}`}`,
      );
    },
  });

  const later = paused(150, cut);
  text.addEventListener("input", () => {
    memory.set("text", text.value.slice(0, 10000));
    later();
  });
  find(".ids").addEventListener("change", cut);
  find(".copy").addEventListener("click", (event) => copy(event.target, JSON.stringify(pieces.map((piece) => piece.id))));

  return {
    shown: cut,
    changed: cut,
    // A text from another page.
    take(given) {
      text.value = given;
      memory.set("text", given.slice(0, 10000));
    },
  };
}

// How does this model's tokenizer cut a text? Any text, with what cannot be seen made visible.

import { ask, tell } from "./api.js";
import { copy, el, memory, paused } from "./dom.js";
import { bytesOf, isText, quoted, visible, whole } from "./piece.js";
import { Rove } from "./rove.js";

const MOST = 100000; // characters the server takes
const TINTS = 4;

export function tokens(page, card) {
  const find = (selector) => page.querySelector(selector);
  const text = find("#text");
  const chips = find(".chips");
  const readout = find(".readout");
  const problem = find(".problem");
  let pieces = [];
  let asking = null;

  text.value = memory.get("text", "");

  async function cut() {
    asking?.abort();
    const run = new AbortController();
    asking = run;
    const said = text.value;
    try {
      if ([...said].length > MOST) {
        pieces = [];
        show(said, null);
        problem.hidden = false;
        problem.textContent = `The text has ${whole([...said].length)} characters; the server cuts at most ${whole(MOST)}.`;
        return;
      }
      const made = said === "" ? null : await ask("tokenize", { model: card().id, text: said }, run.signal);
      if (asking !== run) return;
      tell(problem, null);
      pieces = made?.pieces ?? [];
      show(said, made);
    } catch (error) {
      if (asking === run) tell(problem, error, ["Try again", cut]);
    }
  }

  function show(said, made) {
    find(".empty").hidden = made !== null || said !== "";
    find(".cut").hidden = find(".counts").hidden = made === null;
    if (!made) return;
    const bytes = new TextEncoder().encode(said).length;
    const count = (name, value, note) => el("div", {}, el("dt", {}, name), el("dd", {}, el("b", {}, value), note ? el("small", {}, note) : null));
    find(".counts").replaceChildren(
      count("Tokens", whole(made.count), `${Math.round((100 * made.count) / made.context_length)} % of the context`),
      count("Characters", whole([...said].length)),
      count("Bytes", whole(bytes)),
      count("Bytes a token", (bytes / Math.max(1, made.count)).toFixed(2)),
    );
    // A character of several tokens is held together: its tokens are no text alone.
    const ids = find(".ids").checked;
    chips.replaceChildren();
    pieces.forEach((piece, index) => {
      const chip = el("span", { class: `chip t${index % TINTS}`, "data-at": index, tabindex: index ? "-1" : "0", role: "img", "aria-label": `${quoted(piece)}, id ${piece.id}` });
      chip.append(...(ids ? [String(piece.id)] : visible(piece)));
      if (!isText(piece)) chip.classList.add("partial");
      chips.append(chip);
      if (piece.text.endsWith("\n") && !ids) chips.append(el("br"));
    });
    rest();
  }

  function rest() {
    readout.classList.remove("said");
    readout.textContent = "Point at a token, or move with the arrow keys.";
    for (const same of chips.querySelectorAll(".same")) same.classList.remove("same");
  }

  const rove = new Rove(chips, {
    point(element) {
      rest();
      const piece = element && pieces[Number(element.dataset.at)];
      if (!piece) return;
      const equal = pieces.flatMap((other, index) => (other.id === piece.id ? [index] : []));
      for (const chip of rove.items) chip.classList.toggle("same", equal.includes(Number(chip.dataset.at)));
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
    take(said) {
      text.value = said;
      memory.set("text", said.slice(0, 10000));
    },
  };
}

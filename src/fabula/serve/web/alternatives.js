// What else was likely at this place? A small list beside a token; one is chosen to go on with.

import { el } from "./dom.js";
import { percent, quoted, ranked, visible } from "./piece.js";

const NARROW = matchMedia("(max-width: 40rem)");

// `choose` is called with the token to go on with.
export function open(place, anchor, token, choose) {
  const listed = token.top.map((other) => ({ ...other, top: token.top }));
  if (!listed.some((other) => other.id === token.id)) listed.push(token);
  const most = Math.max(...listed.map((other) => other.logprob));
  const rows = listed.map((other) => row(other, other.id === token.id, most, () => {
    place.hidePopover();
    choose(other);
  }));
  const place_ = ranked(token);
  place.replaceChildren(
    el("h2", { id: "alternatives-title" }, "Instead of ", el("span", { class: "quoted", translate: "no" }, quoted(token))),
    el("p", { class: "soft" }, `${percent(Math.exp(token.logprob))}${place_ ? `, ${place_}` : ""}`),
    el("ol", { translate: "no" }, rows),
    el("p", { class: "soft" }, "Choose one to go on from there. The model's own probabilities, before temperature and filters."),
  );
  const buttons = [...place.querySelectorAll("button")];
  place.onkeydown = (event) => {
    const moves = { ArrowDown: 1, ArrowUp: -1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const index = buttons.indexOf(document.activeElement) + moves[event.key];
    buttons[(index + buttons.length) % buttons.length].focus();
  };
  place.ontoggle = (event) => {
    anchor.classList.toggle("asked", event.newState === "open");
    // The keys stay where they were, unless something else was chosen meanwhile.
    if (event.newState === "closed" && document.activeElement === document.body) anchor.focus({ preventScroll: true });
  };
  if (!place.matches(":popover-open")) place.showPopover();
  beside(place, anchor);
  buttons[Math.max(0, listed.findIndex((other) => other.id === token.id))].focus({ preventScroll: true });
}

function row(token, chosen, most, act) {
  const probability = Math.exp(token.logprob);
  const bar = el("span", { class: "share", "aria-hidden": "true" });
  // Against the likeliest one, so that the shape of the choice is seen.
  bar.style.inlineSize = `${Math.max(0.5, 100 * Math.exp(token.logprob - most))}%`;
  return el(
    "li",
    {},
    el(
      "button",
      { type: "button", class: chosen ? "chosen" : null, onclick: act },
      bar,
      el("span", { class: "token" }, visible(token)),
      el("span", { class: "number" }, chosen ? el("span", { class: "unseen" }, "in the text, ") : null, percent(probability)),
    ),
  );
}

// Under the token, above it or beside it, wherever it is whole and the token is seen; on a phone the style sheet puts it
// at the bottom.
function beside(place, anchor) {
  place.style.left = place.style.top = "";
  if (NARROW.matches) return;
  // The space before a word may have stayed on the line above.
  const token = (anchor.querySelector(".ink") ?? anchor).getClientRects()[0];
  const box = place.getBoundingClientRect();
  const gap = 8;
  const below = token.bottom + gap;
  const above = token.top - gap - box.height;
  const right = token.right + gap;
  let [left, top] = [token.left, below];
  if (below + box.height + gap > innerHeight && above >= gap) top = above;
  else if (below + box.height + gap > innerHeight) {
    left = right + box.width + gap <= innerWidth ? right : token.left - gap - box.width;
  }
  place.style.left = `${Math.max(gap, Math.min(left, innerWidth - box.width - gap))}px`;
  place.style.top = `${Math.max(gap, Math.min(top, innerHeight - box.height - gap))}px`;
}

// How is a token shown? What cannot be seen gets a sign, a probability gets a class and words.

import { el } from "./dom.js";

// The least probability of each class; the style sheet has its colour.
const CLASSES = [0.8, 0.5, 0.2, 0.05, 0.01, 0];
const NAMES = ["over 80 %", "over 50 %", "over 20 %", "over 5 %", "over 1 %", "less"];

export const shade = (probability) => `p${CLASSES.findIndex((least) => probability >= least)}`;

export function legend(place) {
  const keys = NAMES.map((name, index) => el("span", { class: `p${index}` }, el("span", { class: "ink" }, name)));
  place.replaceChildren(el("span", { class: "soft" }, "Probability"), ...keys);
}

export function percent(probability) {
  const hundred = probability * 100;
  if (hundred >= 99.95) return "100 %";
  if (hundred >= 0.1) return `${hundred.toFixed(1)} %`;
  return hundred >= 0.001 ? `${hundred.toFixed(3)} %` : "under 0.001 %";
}

export const whole = (number) => number.toLocaleString("en-US");

// The place of a token among the likeliest that were told (1 is the first); 0 when it is none of them.
export const rank = (token) => token.top.findIndex((other) => other.id === token.id) + 1;

export function ranked(token) {
  const place = rank(token);
  if (place === 1) return "the likeliest";
  if (place === 0) return token.top.length ? `not among the ${token.top.length} likeliest` : "";
  const end = { 2: "nd", 3: "rd" }[place % 10];
  return `${place}${place > 10 && place < 14 ? "th" : (end ?? "th")} likeliest`;
}

const SIGNS = { " ": "·", "\n": "↵", "\t": "→", "\r": "␍" };
const SPOKEN = { "·": "space", "↵": "new line", "→": "tab", "␍": "carriage return" };
// Controls, formats (also those that turn the direction of text), separators, what is not assigned, and half pairs.
const HIDDEN = /[\p{C}\p{Z}]/u;

// Parts of a text: [what is seen, whether it is a sign].
export function signs(text) {
  const parts = [];
  const add = (seen, sign) => {
    const last = parts.at(-1);
    const joins = last && last[1] === sign && (!sign || (seen.length === 1 && !last[0].startsWith("U+")));
    if (joins) last[0] += seen;
    else parts.push([seen, sign]);
  };
  for (const char of text) {
    if (char in SIGNS) add(SIGNS[char], true);
    else if (HIDDEN.test(char)) add(`U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`, true);
    // A mark that stands alone needs something to stand on.
    else if (/\p{M}/u.test(char) && !parts.some(([, sign]) => !sign)) add(`◌${char}`, false);
    else add(char, false);
  }
  return parts;
}

const hex = (bytes) => bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0"));

// Whether the bytes of a token are text by themselves.
export function isText(token) {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(token.bytes));
    return true;
  } catch {
    return false;
  }
}

// A token with its invisible characters made visible.
export function visible(token) {
  if (token.control) return [el("span", { class: "sign" }, token.text)];
  if (!isText(token)) return [el("span", { class: "sign bytes" }, hex(token.bytes).join(" "))];
  if (token.text === "") return [el("span", { class: "sign" }, "∅")];
  return signs(token.text).map(([seen, sign]) => {
    const words = sign ? spoken(seen) : seen;
    return el("span", { class: sign ? "sign" : null, role: words === seen ? null : "img", "aria-label": words === seen ? null : words }, seen);
  });
}

const spoken = (sign) => (sign[0] in SPOKEN ? [...sign].map((one) => SPOKEN[one]).join(" ") : sign);

// A token as it is read aloud.
export function said(token) {
  if (token.control || !isText(token)) return quoted(token);
  return signs(token.text).map(([seen, sign]) => (sign ? spoken(seen) : seen)).join(" ");
}

// The same as words.
export function quoted(token) {
  if (token.control) return token.text;
  if (!isText(token)) return `bytes ${hex(token.bytes).join(" ")}`;
  return `“${signs(token.text).map(([seen]) => seen).join("")}”`;
}

export const bytesOf = (token) => hex(token.bytes).join(" ");

// Tokens as running text: a character belongs to the token that completes it, the tokens before it are dots.
export class Running {
  constructor() {
    this.decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  }

  next(token) {
    if (token.control) return this.decoder.decode();
    return this.decoder.decode(Uint8Array.from(token.bytes), { stream: true });
  }

  // What is left of a character that was never completed.
  end() {
    return this.decoder.decode();
  }
}

// The text of a token in a running text; line ends are also seen.
export function running(token, text) {
  if (token.control) return [text, el("span", { class: "sign end" }, token.text)];
  if (text === "") return [el("span", { class: "ink part" })];
  return inked(text);
}

// A text whose words take the colour of what is around them, and the space before them does not: it may hang over the
// end of a line.
export function inked(text) {
  const [, before, rest] = /^( *)([^]*)$/.exec(text);
  if (rest === "") return [el("span", { class: "ink" }, before)];
  const parts = rest.split(/(\n)/).filter(Boolean);
  return [before, ...parts.map((part) => el("span", { class: part === "\n" ? "ink line" : "ink" }, part))];
}

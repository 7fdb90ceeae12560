// Which model, and which of the four pages?

import { ask, tell } from "./api.js";
import { chat } from "./chat.js";
import { el, memory } from "./dom.js";
import { evolution } from "./evolution.js";
import { whole } from "./piece.js";
import { playground } from "./playground.js";
import { tokens } from "./tokens.js";

const PAGES = { playground, chat, evolution, tokens };
const starting = document.getElementById("starting");
const select = document.getElementById("model");
const made = {};
let models = [];

const card = () => models.find(({ id }) => id === select.value) ?? models[0];

async function begin() {
  starting.textContent = "Asking the server for its model …";
  try {
    models = (await ask("v1/models")).data;
  } catch (error) {
    tell(starting, error, ["Try again", begin]);
    return;
  }
  if (!models.length) {
    starting.textContent = "This server has no model.";
    return;
  }
  starting.hidden = true;
  select.replaceChildren(...models.map(({ id }) => el("option", { value: id }, id)));
  const kept = memory.get("model", "");
  if (models.some(({ id }) => id === kept)) select.value = kept;
  select.hidden = models.length < 2;
  document.getElementById("model-name").hidden = !select.hidden;
  describe();
  for (const [name, page] of Object.entries(PAGES)) made[name] = page(document.getElementById(name), card);
  addEventListener("hashchange", () => turn(true));
  select.addEventListener("change", () => {
    memory.set("model", select.value);
    describe();
    for (const page of Object.values(made)) page.changed();
    made[current()].shown();
  });
  document.addEventListener("tokens", (event) => {
    made.tokens.take(event.detail);
    location.hash = "tokens";
  });
  turn(false);
}

function describe() {
  const { id, parameters, context_length: context, vocab_size: vocabulary, checkpoint } = card();
  document.getElementById("model-name").textContent = id;
  const facts = [`${short(parameters)} parameters`, `context ${whole(context)}`, `vocabulary ${whole(vocabulary)}`, checkpoint];
  document.getElementById("model-facts").replaceChildren(...facts.filter(Boolean).map((fact) => el("span", {}, fact)));
}

function short(number) {
  const [size, name] = [[1e9, "B"], [1e6, "M"], [1e3, "k"]].find(([least]) => number >= least) ?? [1, ""];
  return `${Number((number / size).toPrecision(3))}${name}`;
}

const current = () => (location.hash.slice(1) in PAGES ? location.hash.slice(1) : "playground");

function turn(moved) {
  const name = current();
  for (const other of Object.keys(PAGES)) document.getElementById(other).hidden = other !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${document.getElementById(`${name}-title`).textContent}: ${card().id}, Fabula`;
  made[name].shown();
  if (moved) scrollTo(0, 0);
}

begin();

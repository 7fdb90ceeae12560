// How does a tuned model answer? A conversation that lives in this page alone.

import { Problem, stream, tell } from "./api.js";
import { copy, el, memory } from "./dom.js";
import { form, settings } from "./settings.js";

export function chat(page, card) {
  const find = (selector) => page.querySelector(selector);
  const turns = find(".turns");
  const said = find("#said");
  const system = find("#system");
  const problem = find(".problem");
  const status = find("[role=status]");
  let messages = [];
  let answering = null;

  form(find(".settings"), "chat");
  system.value = memory.get("system", "");
  system.addEventListener("input", () => memory.set("system", system.value));

  function show() {
    turns.replaceChildren(...messages.map(turn));
    find(".empty").hidden = messages.length > 0;
    find(".fresh").hidden = messages.length === 0;
    find(".again").hidden = answering !== null || messages.length === 0;
    find(".stop").hidden = answering === null;
  }

  function turn({ role, content, note }) {
    const user = role === "user";
    const text = el("p", { class: "text", lang: "", dir: "auto", translate: "no" }, content);
    return el(
      "li",
      { class: user ? "user" : "assistant" },
      el("span", { class: "unseen" }, user ? "You said: " : "The model answered: "),
      text,
      user ? null : el("p", { class: "soft after" }, el("span", {}, note ?? ""), el("button", { type: "button", class: "copy quiet", onclick: (event) => copy(event.target, content) }, "Copy")),
    );
  }

  async function answer() {
    answering?.abort();
    tell(problem, null);
    const run = new AbortController();
    answering = run;
    const made = { role: "assistant", content: "", note: "" };
    const conversation = messages;
    conversation.push(made);
    show();
    const place = turns.lastElementChild;
    const text = place.querySelector(".text");
    place.classList.add("writing");
    status.textContent = "The model answers …";
    const began = performance.now();
    let failed = null;
    try {
      const before = conversation.slice(0, -1).map(({ role, content }) => ({ role, content }));
      const first = system.value.trim() ? [{ role: "system", content: system.value }] : [];
      const asked = { model: card().id, messages: [...first, ...before], stream: true, stream_options: { include_usage: true }, ...settings.request() };
      for await (const chunk of stream("v1/chat/completions", asked, run.signal)) {
        const choice = chunk.choices[0];
        if (choice?.delta?.content) {
          made.content += choice.delta.content;
          text.append(choice.delta.content);
          follow();
        }
        if (choice?.finish_reason === "length") made.note = "cut off at its limit";
        if (chunk.usage) {
          const speed = Math.round(chunk.usage.completion_tokens / ((performance.now() - began) / 1000));
          const size = `${chunk.usage.completion_tokens} tokens, ${speed} a second`;
          made.note = made.note ? `${size}; ${made.note}` : size;
        }
      }
      if (made.content === "") made.note = `it said nothing (${made.note})`;
    } catch (error) {
      failed = error;
      if (error.name === "AbortError") made.note = "stopped";
    }
    // Nothing came of it: the question stands alone again, to be asked once more.
    if (failed && made.content === "" && conversation.at(-1) === made) conversation.pop();
    if (answering !== run) return;
    answering = null;
    status.textContent = failed ? "" : `The model answered: ${made.content}`;
    show();
    if (failed) {
      const shorter = failed instanceof Problem && failed.code === "context_length_exceeded" && messages.length > 1;
      tell(problem, failed, shorter ? ["Leave out the oldest turn", leaveOut] : ["Try again", again]);
    }
    said.focus({ preventScroll: true });
    follow();
  }

  // A reader who went up to read is left there.
  function follow() {
    const near = document.documentElement.scrollHeight - scrollY - innerHeight < 160;
    if (near) scrollTo(0, document.documentElement.scrollHeight);
  }

  function leaveOut() {
    const second = messages.findIndex(({ role }, index) => index > 0 && role === "user");
    messages = messages.slice(second > 0 ? second : 1);
    again();
  }

  function again() {
    if (messages.at(-1)?.role === "assistant") messages.pop();
    if (messages.length) answer();
  }

  function send() {
    const content = said.value;
    if (content.trim() === "" || answering) return;
    // What was asked and never answered is asked anew, not twice.
    if (messages.at(-1)?.role === "user") messages.pop();
    messages.push({ role: "user", content });
    said.value = "";
    scrollTo(0, document.documentElement.scrollHeight);
    answer();
  }

  function fresh() {
    answering?.abort();
    answering = null;
    messages = [];
    tell(problem, null);
    show();
    said.focus();
  }

  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  said.addEventListener("keydown", (event) => {
    // While a word is composed (Japanese, Chinese, Korean) Enter belongs to it.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  page.addEventListener("keydown", (event) => event.key === "Escape" && answering?.abort());
  find(".stop").addEventListener("click", () => answering?.abort());
  find(".again").addEventListener("click", again);
  find(".fresh").addEventListener("click", fresh);

  function changed() {
    answering?.abort();
    answering = null;
    messages = [];
    tell(problem, null);
    const { chat: can, tuned } = card();
    find(".absent").hidden = can;
    find(".absent").textContent =
      "This model has no chat template, so it has no way to tell who says what. The playground goes on with any text.";
    find("form").hidden = !can;
    find(".note").hidden = !can || tuned === true;
    show();
    if (!can) find(".empty").hidden = true;
  }

  changed();
  return { shown() {}, changed };
}

// How does this model go on with a text, how sure was it of each token, and what if it had been another one?

import { open } from "./alternatives.js";
import { ask, stream, tell } from "./api.js";
import { copy, el, memory, paused } from "./dom.js";
import { Drafts } from "./drafts.js";
import { legend, percent, quoted, ranked, running, Running, said, shade, whole } from "./piece.js";
import { Rove } from "./rove.js";
import { form, settings } from "./settings.js";

const ALTERNATIVES = 10;
const ENDS = {
  end: "The model ended it",
  stop: "It came to a stop text",
  length: "As many as were asked for",
  context: "No more fit",
  stopped: "Stopped",
};

export function playground(page, card) {
  const find = (selector) => page.querySelector(selector);
  const prompt = find("#prompt");
  const sheet = find(".sheet");
  const readout = find(".readout");
  const problem = find(".problem");
  const drafts = new Drafts();
  let writing = null;
  let shown = new Running();

  form(find(".settings"), "playground");
  legend(find(".legend"));
  prompt.value = memory.get("prompt", "");

  // ---- writing -------------------------------------------------------------------------------------------------

  async function write() {
    writing?.abort();
    tell(problem, null);
    const text = prompt.value;
    const run = start();
    try {
      const promptIds = text === "" ? [] : (await ask("tokenize", { model: card().id, text }, run.signal)).tokens;
      const before = drafts.current;
      const draft = drafts.begin(text, promptIds);
      show();
      await goOn(draft, run);
      if (draft.tokens.length) return;
      drafts.drop(draft, before);
      show();
      end(run);
    } catch (error) {
      tell(problem, error, ["Try again", write]);
      end(run);
    }
  }

  async function goOn(draft, run = start()) {
    tell(problem, null);
    const began = performance.now();
    let text = "";
    const before = draft.tokens.length;
    draft.finish = null;
    draft.beyond = 0;
    try {
      const ids = [...draft.promptIds, ...drafts.path(draft).map((token) => token.id)];
      const asked = { model: card().id, prompt: ids.length ? ids : "", alternatives: ALTERNATIVES, ...settings.request() };
      for await (const event of stream("fabula/generate", asked, run.signal)) {
        if (event.kind === "tokens") {
          text += event.text;
          draft.tokens.push(...event.tokens);
          if (drafts.current === draft) append(event.tokens);
        } else if (event.kind === "end") {
          draft.finish = event.finish_reason;
        }
      }
      if (draft.finish === "stop") draft.beyond = surplus(draft.tokens.slice(before), text);
    } catch (error) {
      draft.finish ??= "stopped";
      tell(problem, error, ["Try again", draft.tokens.length ? () => goOn(draft) : write]);
    }
    draft.seconds = (performance.now() - began) / 1000;
    draft.written = draft.tokens.length - before;
    end(run);
    if (drafts.current === draft) show();
  }

  // The tokens of a stop text were written, and are none of the text.
  function surplus(tokens, text) {
    const decode = new Running();
    let length = 0;
    const starts = tokens.map((token) => {
      const start = length;
      length += decode.next(token).length;
      return start;
    });
    return starts.filter((start) => start >= text.length).length;
  }

  function start() {
    writing?.abort();
    const run = new AbortController();
    writing = run;
    find(".stop").hidden = false;
    find(".more").hidden = true;
    sheet.setAttribute("aria-busy", "true");
    return run;
  }

  function end(run) {
    if (writing !== run) return;
    writing = null;
    find(".stop").hidden = true;
    sheet.setAttribute("aria-busy", "false");
    find(".more").hidden = !drafts.current?.tokens.length || ["end", "context"].includes(drafts.current.finish);
    rest();
  }

  function branch(at, token) {
    writing?.abort();
    const draft = drafts.branch(at, token);
    // What ends a text has nothing after it.
    if (token.control) draft.finish = "end";
    show();
    if (!token.control) goOn(draft);
    else end(writing);
    sheet.querySelector(`[data-at='${at}']`)?.focus({ preventScroll: true });
  }

  // ---- showing -------------------------------------------------------------------------------------------------

  function show() {
    const draft = drafts.current;
    find(".paper").hidden = !draft;
    find(".empty").hidden = Boolean(draft);
    find(".drafts").hidden = drafts.roots.length < 2 && !drafts.roots[0]?.children.length;
    tree();
    if (!draft) {
      find(".more").hidden = true;
      return;
    }
    const held = document.activeElement?.closest(".sheet [data-at]")?.dataset.at;
    shown = new Running();
    sheet.replaceChildren(draft.prompt ? el("span", { class: "prompt" }, draft.prompt) : "");
    append(drafts.path(draft));
    const items = sheet.querySelectorAll("[data-at]");
    for (const at of drafts.forks(draft)) items[at]?.classList.add("fork");
    if (draft.parent) items[draft.at]?.classList.add("turn");
    for (const item of [...items].slice(items.length - draft.beyond)) item.classList.add("beyond");
    if (held !== undefined) rove.to(items[held]);
    if (!writing) find(".more").hidden = ["end", "context"].includes(draft.finish);
    rest();
  }

  function append(tokens) {
    let at = sheet.querySelectorAll("[data-at]").length;
    const first = at === 0;
    for (const token of tokens) {
      const text = shown.next(token);
      const made = el("span", { class: shade(Math.exp(token.logprob)), "data-at": at++, tabindex: "-1", role: "button", "aria-haspopup": "dialog" });
      if (text.trim() === "") made.setAttribute("aria-label", said(token));
      made.append(...running(token, text));
      sheet.append(made);
    }
    if (first) sheet.querySelector("[data-at]")?.setAttribute("tabindex", "0");
  }

  const tokenOf = (element) => drafts.path(drafts.current)[Number(element.dataset.at)];

  function rest() {
    const draft = drafts.current;
    if (!draft) return;
    const path = drafts.path(draft);
    readout.classList.remove("said");
    if (writing) {
      readout.textContent = "Writing …";
      return;
    }
    const used = draft.promptIds.length + path.length;
    const speed = draft.written && draft.seconds ? `, ${Math.round(draft.written / draft.seconds)} a second` : "";
    const size = `${whole(path.length)} tokens${speed}; ${whole(used)} of the ${whole(card().context_length)} that the model sees`;
    readout.textContent = `${size}. ${ENDS[draft.finish] ?? ENDS.stopped}.`;
  }

  function point(element) {
    const token = element && drafts.current && tokenOf(element);
    if (!token) return rest();
    const place = ranked(token);
    readout.classList.add("said");
    readout.replaceChildren(
      el("b", {}, percent(Math.exp(token.logprob))),
      ` ${quoted(token)}${place ? `, ${place}` : ""}; id ${token.id}`,
    );
  }

  const rove = new Rove(sheet, {
    point,
    choose(element) {
      const at = Number(element.dataset.at);
      const token = tokenOf(element);
      if (token) open(page.querySelector("#alternatives"), element, token, (other) => branch(at, other));
    },
  });

  // The branches as a list of lists: each with the token at which it left, and how it goes on.
  function tree() {
    const item = (draft) => {
      const decode = new Running();
      const text = draft.tokens.slice(0, 24).map((token) => decode.next(token)).join("");
      const name = `${draft.parent ? "" : draft.prompt.slice(-24)}${text}`.replace(/\s+/g, " ").trim();
      const current = draft === drafts.current;
      const button = el("button", { type: "button", "aria-current": current ? "true" : null, title: `${draft.tokens.length} tokens`, onclick: () => turnTo(draft) }, name || "(nothing yet)");
      return el("li", {}, button, draft.children.length ? el("ul", {}, draft.children.map(item)) : null);
    };
    find(".tree").replaceChildren(el("ul", { translate: "no" }, drafts.roots.map(item)));
  }

  function turnTo(draft) {
    writing?.abort();
    tell(problem, null);
    drafts.current = draft;
    show();
    find(".tree [aria-current]")?.focus();
  }

  // ---- controls ------------------------------------------------------------------------------------------------

  const measure = paused(300, async () => {
    const text = prompt.value;
    const size = find("#prompt-size");
    if (text === "") {
      size.textContent = "";
      return;
    }
    try {
      const { count } = await ask("tokenize", { model: card().id, text });
      if (prompt.value !== text) return;
      const most = card().context_length;
      size.textContent = `${whole(count)} of ${whole(most)} tokens`;
      size.classList.toggle("over", count >= most);
    } catch {
      // Writing will say it.
    }
  });

  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    write();
  });
  prompt.addEventListener("input", () => {
    memory.set("prompt", prompt.value);
    measure();
  });
  page.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      write();
    } else if (event.key === "Escape" && writing && !page.querySelector(":popover-open")) {
      writing.abort();
    }
  });
  find(".stop").addEventListener("click", () => writing?.abort());
  find(".more").addEventListener("click", () => goOn(drafts.current));
  find(".colours").addEventListener("change", (event) => page.classList.toggle("plain", !event.target.checked));
  find(".copy").addEventListener("click", (event) => copy(event.target, text()));
  find(".cut").addEventListener("click", () => {
    page.dispatchEvent(new CustomEvent("tokens", { bubbles: true, detail: text() }));
  });
  find(".forget").addEventListener("click", () => {
    writing?.abort();
    drafts.forget();
    show();
    prompt.focus();
  });

  function text() {
    const draft = drafts.current;
    const path = drafts.path(draft);
    const decode = new Running();
    return draft.prompt + path.slice(0, path.length - draft.beyond).map((token) => decode.next(token)).join("") + decode.end();
  }

  return {
    shown: measure,
    changed() {
      writing?.abort();
      drafts.forget();
      show();
      measure();
    },
  };
}

// How is the server asked? JSON and streams of events, its refusals as problems in words, the token where it wants one.

import { el } from "./dom.js";

const TOKEN = "fabula.token";

// Why something could not be had, in words for a person.
export class Problem extends Error {
  constructor(message, { status = 0, code = "", retry = 0 } = {}) {
    super(message);
    Object.assign(this, { status, code, retry });
  }
}

let token = stored();

function stored() {
  try {
    return sessionStorage.getItem(TOKEN) ?? "";
  } catch {
    return "";
  }
}

// The answer to a question as data.
export async function ask(path, body, signal) {
  const response = await request(path, body, signal);
  try {
    return await response.json();
  } catch (error) {
    throw problem(error);
  }
}

// The events of a stream, one after the other. Leaving the loop, or the signal, ends the work on the server.
export async function* stream(path, body, signal) {
  const response = await request(path, body, signal);
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let whole = false;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done && whole) return;
      if (done) throw new Problem("The connection broke off before the text was finished.");
      const events = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ")) continue;
        const data = event.slice(6);
        if (data === "[DONE]") {
          whole = true;
          continue;
        }
        const said = JSON.parse(data);
        if (said.error) throw refusal(500, said.error, 0);
        yield said;
      }
    }
  } catch (error) {
    throw problem(error);
  } finally {
    if (!whole) reader.cancel().catch(() => {});
  }
}

async function request(path, body, signal) {
  for (let wrong = false; ; wrong = true) {
    const headers = body === undefined ? {} : { "Content-Type": "application/json" };
    const sent = token;
    if (token) headers.Authorization = `Bearer ${token}`;
    let response;
    try {
      const method = body === undefined ? "GET" : "POST";
      response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal });
    } catch (error) {
      throw problem(error);
    }
    if (response.ok) return response;
    if (response.status === 401) {
      // Another question may have brought a new one meanwhile.
      if (token !== sent || (await askForToken(wrong || sent !== ""))) continue;
    }
    const told = await response.json().catch(() => ({}));
    throw refusal(response.status, told.error ?? {}, Number(response.headers.get("Retry-After")) || 0);
  }
}

function problem(error) {
  if (error instanceof Problem || error.name === "AbortError") return error;
  if (error instanceof SyntaxError) return new Problem("The server's answer cannot be read.");
  return new Problem("The server cannot be reached. Is fabula serve still running?");
}

function refusal(status, { message = "", code = "" }, retry) {
  const said = message ? message[0].toUpperCase() + message.slice(1) : `The server refused (${status})`;
  const sentence = /[.!?]$/.test(said) ? said : `${said}.`;
  const words = {
    401: "The server wants a token, and none was given.",
    429: `The server is busy. ${sentence}${retry ? ` Try again in ${retry} s.` : ""}`,
    503: `The server takes nothing now. ${sentence}`,
  };
  return new Problem(words[status] ?? sentence, { status, code: code ?? "", retry });
}

// ---- the token ---------------------------------------------------------------------------------------------------

let asking = null;

// Whether one was given. Several questions at a time share one dialog.
function askForToken(wrong) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("token-dialog");
    const input = dialog.querySelector("#token");
    const note = dialog.querySelector(".problem");
    note.hidden = !wrong;
    note.textContent = wrong ? "That token is not the one." : "";
    input.value = "";
    dialog.addEventListener(
      "close",
      () => {
        const given = dialog.returnValue === "give" ? input.value.trim() : "";
        // A header holds only these characters; others cannot be a token.
        if (given) token = given.replace(/[^!-~]/g, "");
        try {
          if (given) sessionStorage.setItem(TOKEN, token);
        } catch {
          // It holds until the page is left.
        }
        asking = null;
        resolve(given !== "");
      },
      { once: true },
    );
    dialog.returnValue = "";
    dialog.showModal();
  });
  return asking;
}

// ---- saying it ---------------------------------------------------------------------------------------------------

// A problem where it happened, with a way on; without a problem the place is empty.
export function tell(place, error, ...ways) {
  place.hidden = !error || error.name === "AbortError";
  place.replaceChildren();
  if (place.hidden) return;
  if (!(error instanceof Problem)) console.error(error);
  const said = error instanceof Problem ? error.message : `The page made a mistake: ${error.message}`;
  const buttons = ways.map(([name, act]) => el("button", { type: "button", class: "quiet", onclick: act }, name));
  place.append(el("span", {}, said), ...buttons);
}

// How are elements made? Only here, and only of text: nothing that a model or a file name says becomes markup.

const SVG = "http://www.w3.org/2000/svg";

// An element with attributes and children; strings become text, what is nothing is left out.
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

// What is not allowed to keep anything (a private window) still works, and forgets.
export const memory = {
  get(key, fallback) {
    try {
      const kept = JSON.parse(localStorage.getItem(`fabula.${key}`));
      return typeof kept === typeof fallback && kept !== null ? kept : fallback;
    } catch {
      return fallback;
    }
  },
  set(key, value) {
    try {
      localStorage.setItem(`fabula.${key}`, JSON.stringify(value));
    } catch {
      // Full or forbidden.
    }
  },
};

// A text into the clipboard, and the button says so for a moment.
export async function copy(button, text) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser refuses";
  }
  setTimeout(() => {
    button.textContent = before;
  }, 1500);
}

// Calls after a pause in the calls.
export function paused(milliseconds, work) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), milliseconds);
  };
}

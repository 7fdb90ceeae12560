// Light or dark? The system's choice unless another one was made here. Not a module: it runs before anything is drawn.
(() => {
  "use strict";
  const root = document.documentElement;
  try {
    const chosen = localStorage.getItem("fabula.theme");
    if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  } catch {
    // Without storage the system's choice stands.
  }
  addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
      const next = (root.dataset.theme ?? system) === "dark" ? "light" : "dark";
      // Back at what the system wants, the page follows it again.
      if (next === system) delete root.dataset.theme;
      else root.dataset.theme = next;
      try {
        if (next === system) localStorage.removeItem("fabula.theme");
        else localStorage.setItem("fabula.theme", next);
      } catch {
        // It holds until the page is left.
      }
    });
  });
})();

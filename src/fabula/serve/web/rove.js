// How do keys move over tokens? One of them is in the order of the tab key; arrows, Home and End move it.

// `choose` is called with Enter, the space bar or a click; `point` with the element that is pointed at or focused, or null.
export class Rove {
  constructor(place, { choose, point }) {
    this.place = place;
    this.point = point;
    const item = (event) => event.target.closest?.("[data-at]");
    place.addEventListener("keydown", (event) => {
      const at = item(event);
      if (!at || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose?.(at);
        return;
      }
      const to = this.target(at, event.key);
      if (to === undefined) return;
      event.preventDefault();
      this.to(to);
    });
    place.addEventListener("click", (event) => {
      // Marking text with the mouse is no choice.
      if (item(event) && getSelection().isCollapsed) choose?.(item(event));
    });
    place.addEventListener("focusin", (event) => {
      if (item(event)) {
        this.hold(item(event));
        point(item(event));
      }
    });
    place.addEventListener("pointerover", (event) => item(event) && point(item(event)));
    place.addEventListener("pointerleave", () => point(place.contains(document.activeElement) ? this.held : null));
    place.addEventListener("focusout", (event) => place.contains(event.relatedTarget) || point(null));
  }

  get items() {
    return [...this.place.querySelectorAll("[data-at]")];
  }

  get held() {
    return this.place.querySelector("[tabindex='0']");
  }

  // The tab key comes back to where it left.
  hold(element) {
    const held = this.held;
    if (held !== element) held?.setAttribute("tabindex", "-1");
    element.setAttribute("tabindex", "0");
  }

  to(element) {
    if (!element) return;
    this.hold(element);
    element.focus();
  }

  target(from, key) {
    const items = this.items;
    const index = items.indexOf(from);
    if (key === "ArrowRight") return items[index + 1] ?? null;
    if (key === "ArrowLeft") return items[index - 1] ?? null;
    if (key === "Home") return items[0];
    if (key === "End") return items.at(-1);
    if (key === "ArrowDown" || key === "ArrowUp") return lineAway(items, index, key === "ArrowDown" ? 1 : -1);
    return undefined;
  }
}

// The nearest item of the next line: lines are what the browser made of them.
function lineAway(items, index, direction) {
  const middle = (box) => (box.left + box.right) / 2;
  // A token that goes around the end of a line has several boxes: that of its word counts, not that of the space before.
  const boxOf = (element) => {
    const word = element.querySelector(".ink") ?? element;
    return word.getClientRects()[0] ?? word.getBoundingClientRect();
  };
  const here = boxOf(items[index]);
  let best = null;
  let line = null;
  for (let next = index + direction; next >= 0 && next < items.length; next += direction) {
    const box = boxOf(items[next]);
    if (Math.abs(box.top - here.top) < here.height / 2) continue;
    line ??= box.top;
    if (Math.abs(box.top - line) > here.height / 2) break;
    const away = Math.abs(middle(box) - middle(here));
    if (!best || away < best.away) best = { element: items[next], away };
  }
  return best?.element ?? null;
}

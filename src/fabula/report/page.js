// Reading values off the charts, and the slider over checkpoints. The page is whole without this file:
// switching the axis is done by the style sheet, and the samples are a list.
(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  document.documentElement.classList.add("js");

  // A chart is a slider over its points: the mouse, a finger or the arrow keys choose one, and its text is shown.
  const HINT = "Point at the curve to read it, or reach it with the tab key and move with the arrow keys.";
  for (const store of all("[data-points]")) {
    const name = store.dataset.points;
    const points = JSON.parse(store.textContent);
    const readout = document.querySelector(`[data-readout="${name}"]`);
    const hint = name === "loss" ? HINT : "";
    let chosen = points.say.length - 1;

    const rest = () => {
      readout.textContent = hint;
      readout.classList.remove("said");
      for (const chart of all(`[data-chart="${name}"]`)) chart.classList.remove("reading");
    };
    const show = (plot, index) => {
      const across = points.x[plot.dataset.axis];
      if (across[index] === null) return;
      chosen = index;
      const chart = plot.querySelector(".chart");
      const [line, dot] = all(".cursor", chart);
      const x = `${across[index] * 100}%`;
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      dot.setAttribute("cx", x);
      dot.setAttribute("cy", `${points.y[index] * 100}%`);
      chart.classList.add("reading");
      readout.textContent = points.say[index];
      readout.classList.add("said");
      plot.setAttribute("aria-valuenow", String(index));
      plot.setAttribute("aria-valuetext", points.say[index]);
    };
    const nearest = (across, share) => {
      let best = 0;
      let distance = Infinity;
      across.forEach((x, index) => {
        if (x !== null && Math.abs(x - share) < distance) {
          best = index;
          distance = Math.abs(x - share);
        }
      });
      return best;
    };

    for (const plot of all(`[data-read="${name}"]`)) {
      const chart = plot.querySelector(".chart");
      plot.tabIndex = 0;
      plot.setAttribute("role", "slider");
      plot.setAttribute("aria-label", chart.getAttribute("aria-label"));
      plot.setAttribute("aria-valuemin", "0");
      plot.setAttribute("aria-valuemax", String(points.say.length - 1));
      plot.setAttribute("aria-valuenow", String(chosen));
      plot.setAttribute("aria-valuetext", points.say[chosen]);
      const follow = (event) => {
        const box = chart.getBoundingClientRect();
        if (box.width > 0) show(plot, nearest(points.x[plot.dataset.axis], (event.clientX - box.left) / box.width));
      };
      plot.addEventListener("pointermove", follow);
      plot.addEventListener("pointerdown", follow);
      plot.addEventListener("pointerleave", () => document.activeElement === plot || rest());
      plot.addEventListener("focus", () => plot.matches(":focus-visible") && show(plot, chosen));
      plot.addEventListener("blur", rest);
      plot.addEventListener("keydown", (event) => {
        const last = points.say.length - 1;
        const stride = Math.max(1, Math.round(last / 100));
        const moves = {
          ArrowLeft: chosen - stride, ArrowDown: chosen - stride, ArrowRight: chosen + stride, ArrowUp: chosen + stride,
          PageDown: chosen - 10 * stride, PageUp: chosen + 10 * stride, Home: 0, End: last,
        };
        if (!(event.key in moves)) return;
        event.preventDefault();
        show(plot, Math.min(last, Math.max(0, moves[event.key])));
      });
    }
    for (const input of all("input[name=axis]")) input.addEventListener("change", rest);
    rest();
  }

  const slider = document.querySelector(".slider");
  if (slider) {
    const range = slider.querySelector("input");
    const output = slider.querySelector("output");
    const moments = document.querySelector(".moments");
    const listed = all("details", moments);
    const choose = () => {
      listed.forEach((moment, index) => {
        moment.hidden = index !== Number(range.value);
        moment.open = !moment.hidden;
      });
      const said = listed[Number(range.value)].querySelector("summary").textContent;
      output.textContent = said;
      range.setAttribute("aria-valuetext", said);
    };
    moments.classList.add("one-at-a-time");
    slider.hidden = false;
    range.addEventListener("input", choose);
    choose();
  }

  // Paper cannot be clicked: the settings are unfolded for it and folded again afterwards.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = all("details.settings:not([open])");
    for (const details of opened) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
})();

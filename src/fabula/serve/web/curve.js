// How did the loss fall? A line over the steps, drawn element by element, with a dot for each checkpoint.

import { svg } from "./dom.js";
import { whole } from "./piece.js";

const LEFT = 44;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 34;

let watching = null;

// Keeps a curve drawn in the size of its place; returns a function that marks a checkpoint by its index. `choose` is
// called with an index.
export function draw(place, history, choose) {
  let chosen = 0;
  let mark = () => {};
  const again = () => {
    if (!place.clientWidth) return;
    mark = drawn(place, history, choose);
    mark(chosen);
  };
  watching?.disconnect();
  watching = new ResizeObserver(again);
  watching.observe(place);
  return (index) => {
    chosen = index;
    mark(index);
  };
}

function drawn(place, { curve, checkpoints }, choose) {
  const [width, height] = [place.clientWidth, place.clientHeight];
  const value = curve.some((point) => point.bits_per_byte !== null) ? "bits_per_byte" : "loss";
  const points = curve.filter((point) => point[value] !== null);
  const of = (kind) => points.filter((point) => point.kind === kind);
  const train = of("train");
  const measured = of("evaluation");
  const last = Math.max(1, ...points.map((point) => point.step), ...checkpoints.map(({ step }) => step));
  // The first steps are far above all others: the frame holds what comes after a twentieth of the run.
  const late = points.filter((point) => point.step >= last / 20).map((point) => point[value]);
  const [low, high] = frame(late.length ? late : points.map((point) => point[value]));
  const x = (step) => LEFT + (step / last) * (width - LEFT - RIGHT);
  const y = (number) => TOP + (1 - (number - low) / (high - low)) * (height - TOP - BOTTOM);
  const path = (line) => line.map((point, index) => `${index ? "L" : "M"}${x(point.step).toFixed(1)} ${y(point[value]).toFixed(1)}`).join("");

  const drawing = svg("svg", { width, height, role: "img", "aria-label": summary(value, train, measured) });
  const clip = svg("clipPath", { id: "frame" }, svg("rect", { x: LEFT, y: TOP - 4, width: width - LEFT, height: height - BOTTOM - TOP + 8 }));
  drawing.append(svg("defs", {}, clip));
  for (const tick of ticks(low, high, 5)) {
    drawing.append(
      svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
      svg("text", { x: LEFT - 8, y: y(tick) + 4, class: "y" }, String(Number(tick.toFixed(4)))),
    );
  }
  for (const tick of ticks(0, last, Math.min(8, width / 80))) {
    drawing.append(svg("text", { x: x(tick), y: height - 12, class: "x" }, whole(tick)));
  }
  const lines = svg("g", { "clip-path": "url(#frame)" });
  lines.append(svg("path", { class: train.length > 120 ? "raw" : "train", d: path(train) }));
  if (train.length > 120) lines.append(svg("path", { class: "train", d: path(smooth(train, value)) }));
  lines.append(svg("path", { class: "validation", d: path(measured) }));
  const marker = svg("line", { class: "marker", y1: TOP, y2: height - BOTTOM });
  const dots = checkpoints.map((checkpoint, index) => {
    const there = checkpoint[value] ?? near(measured, checkpoint.step, value) ?? near(train, checkpoint.step, value) ?? low;
    const at = { cx: x(checkpoint.step), cy: Math.max(TOP, y(there)) };
    // A wide ring that is not seen, for fingers.
    return svg(
      "g",
      { class: "dot", onclick: () => choose(index) },
      svg("circle", { ...at, r: 14, class: "reach" }),
      svg("circle", { ...at, r: 4.5 }),
      svg("title", {}, `step ${whole(checkpoint.step)}`),
    );
  });
  drawing.append(lines, marker, ...dots);
  place.replaceChildren(drawing);
  return (index) => {
    const at = x(checkpoints[index].step);
    marker.setAttribute("x1", at);
    marker.setAttribute("x2", at);
    dots.forEach((dot, other) => dot.classList.toggle("current", other === index));
  };
}

// What the lines are, for the legend.
export const unit = (curve) => (curve.some((point) => point.bits_per_byte !== null) ? "bits per byte" : "loss, nats a token");

function summary(value, train, measured) {
  const line = measured.length ? measured : train;
  if (!line.length) return "No losses were recorded";
  const name = value === "loss" ? "Loss in nats a token" : "Bits per byte";
  return `${name} over steps: from ${line[0][value].toFixed(3)} at step ${line[0].step} to ${line.at(-1)[value].toFixed(3)} at step ${line.at(-1).step}`;
}

function frame(values) {
  if (!values.length) return [0, 1];
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [Math.max(0, low - room), high + room];
}

// Round numbers within bounds.
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) found.push(tick);
  return found;
}

// A moving mean over about a thirtieth of the run.
function smooth(line, value) {
  const reach = Math.max(1, Math.round(line.length / 60));
  return line.map((point, index) => {
    const some = line.slice(Math.max(0, index - reach), index + reach + 1);
    return { ...point, [value]: some.reduce((sum, other) => sum + other[value], 0) / some.length };
  });
}

function near(line, step, value) {
  if (!line.length) return null;
  return line.reduce((best, point) => (Math.abs(point.step - step) < Math.abs(best.step - step) ? point : best))[value];
}

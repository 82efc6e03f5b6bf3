// Line plots as SVG, with the values under the pointer.

import { el, shown, svg } from "./dom.js";

const COLORS = ["#2f6fdb", "#d2691e", "#2b8a57", "#9b45b2", "#c0392b", "#4a5a6a", "#0f8b8d", "#b08900"];
const W = 420, H = 210, LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 22;

/** Returns the color of a run or line. */
export const color = (index) => COLORS[index % COLORS.length];

/** Returns about five round numbers from `low` to `high`, and a function that writes them so that they differ. */
function round(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((s) => s * power >= rough * 0.75) * power;
  const ticks = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) ticks.push(n * step);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return [ticks, (t) => (digits > 5 ? Number(t.toPrecision(3)).toExponential() : t.toFixed(digits)).replace("-", "−")];
}

/** Returns places on a logarithmic axis between powers of ten `low` and `high`, and how they are written. */
function decades(low, high) {
  const ticks = Array.from({ length: 5 }, (_, i) => 10 ** (low + ((high - low) * i) / 4));
  return [ticks, (t) => shown(t, 3)];
}

/** Returns a card with the lines {name, x, y, color, dashed}; a logarithmic axis where they span decades above 0. */
export function chart(title, lines) {
  const ys = lines.flatMap((line) => line.y).filter(Number.isFinite);
  const xs = lines.flatMap((line) => line.x);
  if (!ys.length) return null;
  const low = Math.min(...ys), high = Math.max(...ys);
  const log = low > 0 && high / low > 50;
  const [a, b] = log ? [Math.log10(low), Math.log10(high)] : [low, high];
  const span = b - a || Math.abs(b) || 1;
  const [first, last] = [Math.min(...xs), Math.max(...xs)];
  const px = (x) => LEFT + ((x - first) / (last - first || 1)) * (W - LEFT - RIGHT);
  const py = (y) => TOP + (1 - ((log ? Math.log10(y) : y) - a) / span) * (H - TOP - BOTTOM);
  const [ticks, label] = log ? decades(a, a + span) : round(a, a + span);
  const node = svg("svg", { viewBox: `0 0 ${W} ${H}`, class: "chart" },
    ...ticks.flatMap((t) => [svg("line", { x1: LEFT, x2: W - RIGHT, y1: py(t), y2: py(t) }), svg("text", { x: LEFT - 5, y: py(t) + 3, "text-anchor": "end", text: label(t) })]),
    svg("text", { x: LEFT, y: H - 6, text: `epoch ${shown(first)}` }), svg("text", { x: W - RIGHT, y: H - 6, "text-anchor": "end", text: shown(last) }),
    ...lines.map((line) => {
      const points = line.x.map((x, i) => [x, line.y[i]]).filter(([, y]) => Number.isFinite(y));
      if (points.length === 1) return svg("circle", { cx: px(points[0][0]), cy: py(points[0][1]), r: 3, fill: line.color });
      return svg("polyline", { points: points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" "), stroke: line.color, "stroke-dasharray": line.dashed ? "4 3" : null });
    }));
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: H - BOTTOM, visibility: "hidden" });
  node.append(cursor);
  const readings = lines.map((line) => el("b"));
  const read = (x) => lines.forEach((line, n) => {
    let best = 0;
    line.x.forEach((at, i) => {
      if (Math.abs(at - x) < Math.abs(line.x[best] - x)) best = i;
    });
    readings[n].textContent = shown(line.y[best], 4);
  });
  read(last);
  node.addEventListener("pointermove", (event) => {
    const box = node.getBoundingClientRect();
    const x = first + (((event.clientX - box.left) / box.width) * W - LEFT) / (W - LEFT - RIGHT) * (last - first);
    const at = Math.min(last, Math.max(first, Math.round(x)));
    cursor.setAttribute("x1", px(at));
    cursor.setAttribute("x2", px(at));
    cursor.setAttribute("visibility", "visible");
    read(at);
  });
  node.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    read(last);
  });
  return el("article", { class: "card" }, el("h3", { text: title }), node,
    el("ul", { class: "lines" }, ...lines.map((line, n) => {
      const key = el("i", { class: line.dashed ? "key-line dashed" : "key-line" });
      key.style.borderColor = line.color;
      return el("li", {}, key, line.name || title, readings[n]);
    })));
}

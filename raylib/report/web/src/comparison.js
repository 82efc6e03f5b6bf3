// The page of several reconstructions of the same photographs.

import { color } from "./charts.js";
import { page } from "./data.js";
import { el, shown, svg, withUnit } from "./dom.js";
import * as rows from "./rows.js";
import { shell } from "./shell.js";
import { details, differences } from "./tabs.js";
import { Viewer } from "./viewer.js";
import { VirtualGrid } from "./virtual.js";

export function comparison() {
  const { runs, pairs } = page;
  const pairOf = new Map(pairs.flatMap((pair) => pair.filter((row) => row !== null).map((row) => [row, pair])));
  let order = [];
  const opens = (pair) => pair.find((row) => row !== null && rows.hasDetail(row)) ?? null;
  const viewer = new Viewer({
    facts: (row) => [["Run", runs[pairOf.get(row).indexOf(row)].name], ...rows.facts(row)],
    title: rows.title,
    links: () => [],
    variants: (row) => pairOf.get(row).map((other, r) => [runs[r].name, other !== null && rows.hasDetail(other) ? other : null]),
    step: (row, by) => {
      const r = pairOf.get(row).indexOf(row);
      for (let at = order.indexOf(pairOf.get(row)) + by; at >= 0 && at < order.length; at += by) {
        const next = order[at][r] !== null && rows.hasDetail(order[at][r]) ? order[at][r] : opens(order[at]);
        if (next !== null) return next;
      }
      return null;
    },
  });

  const tally = el("p", { class: "tally", role: "status" });
  const search = el("input", { type: "search", placeholder: "Search names and messages", "aria-label": "Search", oninput: () => update() });
  const sorts = [["name", "Name"], ["differ", "Statuses that differ"], ...rows.figures.map((f) => [f.key, `Largest difference: ${f.label.toLowerCase()}`])];
  const sort = el("select", { "aria-label": "Sort", onchange: () => update() }, ...sorts.map(([value, text]) => el("option", { value, text, selected: value === "landmark_nme" })));
  const host = el("div", { class: "pairs-grid" });
  const grid = new VirtualGrid(host, {
    layout: (width) => {
      const columns = Math.max(1, Math.floor((width + 10) / (110 * (runs.length + 1) + 10)));
      return { columns, height: 118 + 66, gap: 10 };
    },
    make: () => el("button", { type: "button", class: "tile pair", onclick: (event) => {
      const row = opens(order[Number(event.currentTarget.dataset.pair)]);
      if (row !== null) viewer.show(row);
    } }, el("span", { class: "faces-row" }, ...[0, ...runs].map(() => el("span", { class: "picture" }, el("img", { alt: "" }), el("b", { class: "badge" })))),
      el("span", { class: "name" }), el("small"), el("small")),
    fill,
  });

  function fill(tile, index) {
    const pair = order[index];
    const some = pair.find((row) => row !== null);
    tile.dataset.pair = index;
    tile.disabled = opens(pair) === null;
    const [pictures, name, first, second] = tile.children;
    name.textContent = rows.title(some);
    tile.title = rows.folder(some) + rows.name(some);
    const shows = (image, row, picture) => {
      image.hidden = true;
      image.removeAttribute("src");
      if (row === null) return;
      picture(row).then((thumb) => {
        if (tile.dataset.pair !== String(index) || order[index] !== pair || !thumb) return;
        image.src = thumb;
        image.hidden = false;
      });
    };
    const [photo, noBadge] = pictures.children[0].children;
    noBadge.hidden = true;
    shows(photo, some, rows.thumbnail);
    pair.forEach((row, r) => {
      const [image, badge] = pictures.children[r + 1].children;
      shows(image, row, rows.clay);
      const status = row === null ? "no_face" : rows.status(row);
      badge.hidden = status === "ok";
      badge.className = `badge ${status}`;
      badge.textContent = row === null ? "not found" : status.replaceAll("_", " ");
    });
    const key = rows.figure[sort.value] ? sort.value : "landmark_nme";
    const f = rows.figure[key];
    first.textContent = f ? `${f.label}: ${pair.map((row) => (row === null ? "–" : withUnit(rows.value(key, row), f.unit, 2))).join("  |  ")}` : "";
    second.textContent = runs.map((run) => run.name).join("  |  ");
  }

  function update() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    order = pairs.filter((pair) => !words.length || pair.some((row) => row !== null && rows.matches(row, words)));
    const key = sort.value;
    const weight = (pair) => {
      if (key === "differ") return new Set(pair.map((row) => (row === null ? "" : rows.status(row)))).size;
      const values = pair.map((row) => (row === null ? null : rows.value(key, row)));
      return values.includes(null) ? -1 : Math.max(...values) - Math.min(...values);
    };
    if (key !== "name") {
      const weights = new Map(order.map((pair) => [pair, weight(pair)]));
      order.sort((a, b) => weights.get(b) - weights.get(a));
    }
    const listed = pairs.length < page.pairs_in_all ? ` listed here, of ${page.pairs_in_all.toLocaleString("en-US")}` : "";
    tally.textContent = `${order.length.toLocaleString("en-US")} of ${pairs.length.toLocaleString("en-US")} faces and images that all runs have seen${listed}`;
    grid.reset(order.length);
  }

  shell({
    title: page.title,
    subtitle: runs.map(({ name, totals }) => `${name}: ${totals.faces.toLocaleString("en-US")} faces`).join(" · "),
    tabs: [
      { key: "faces", label: "Faces", count: pairs.length, make: () => el("section", {}, el("div", { class: "toolbar" }, search, sort), tally, host), shown: () => grid.draw() },
      { key: "figures", label: "Distributions", make: () => el("section", { class: "figures" }, ...page.figures.map(overlaid)) },
      { key: "run", label: "Runs", make: () => el("section", { class: "run" }, totals(), differences(runs), ...runs.flatMap((run) => [el("h2", { text: run.name }), ...details(run.run)])) },
    ],
  });
  update();
}

/** Returns a figure's distribution in all runs, and who is best how often. */
function overlaid(figure) {
  const width = 300, height = 90, bins = figure.edges.length - 1;
  const shares = figure.counts.map((counts) => {
    const sum = counts.reduce((a, b) => a + b, 0) || 1;
    return counts.map((n) => n / sum);
  });
  const top = Math.max(...shares.flat(), 1e-9);
  const outline = (share) => share.map((s, i) => `${i ? "L" : "M"}${((i + 0.5) * width) / bins},${height - (s / top) * height}`).join("");
  const bounded = figure.worst !== "far";
  return el("article", { class: "card" }, el("h3", { text: figure.label }), el("p", { class: "hint", text: figure.meaning }),
    svg("svg", { viewBox: `0 0 ${width} ${height + 16}`, class: "histogram overlaid" },
      ...shares.map((share, r) => svg("path", { d: outline(share), stroke: color(r) })),
      svg("line", { x1: 0, x2: width, y1: height, y2: height }),
      svg("text", { x: 0, y: height + 12, text: shown(figure.edges[0]) }),
      svg("text", { x: width, y: height + 12, "text-anchor": "end", text: withUnit(figure.edges.at(-1), figure.unit) })),
    el("ul", { class: "lines" }, ...page.runs.map((run, r) => {
      const key = el("i", { class: "key-line" });
      key.style.borderColor = color(r);
      const best = bounded && figure.n ? `, best in ${figure.best[r].toLocaleString("en-US")} of ${figure.n.toLocaleString("en-US")}` : "";
      return el("li", {}, key, run.name, el("b", { text: withUnit(figure.median[r], figure.unit) }), el("span", { class: "hint", text: `median${best}` }));
    })));
}

function totals() {
  const statuses = page.statuses.filter((status) => page.runs.some((run) => run.totals.images_by_status[status]));
  const line = (label, value) => el("tr", {}, el("th", { text: label }), ...page.runs.map((run) => el("td", { class: "number", text: value(run) })));
  return el("table", { class: "side-by-side" }, el("thead", {}, el("tr", {}, el("th"), ...page.runs.map((run) => el("th", { class: "number", text: run.name })))),
    el("tbody", {}, line("images", (run) => run.totals.images.toLocaleString("en-US")), line("faces", (run) => run.totals.faces.toLocaleString("en-US")),
      ...statuses.map((status) => line(`images ${status.replaceAll("_", " ")}`, (run) => String(run.totals.images_by_status[status] ?? 0))),
      line("images a second", (run) => shown(run.run.images_per_second)),
      line("milliseconds of work an image", (run) => shown((1000 * Object.values(run.totals.seconds).reduce((a, b) => a + b, 0)) / Math.max(1, run.totals.images)))));
}

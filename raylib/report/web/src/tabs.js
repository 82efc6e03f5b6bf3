// The tabs beside the faces: images that failed, distributions, and the run itself.

import { page } from "./data.js";
import { duration, el, shown, svg, withUnit } from "./dom.js";
import * as rows from "./rows.js";
import { VirtualGrid } from "./virtual.js";

/** Returns the tab of rows that are not ok, by status, the most frequent first. */
export function failures() {
  const failed = [];
  for (let row = 0; row < rows.count; row++) if (rows.status(row) !== "ok") failed.push(row);
  const counts = page.totals.rows_by_status;
  failed.sort((a, b) => counts[rows.status(b)] - counts[rows.status(a)] || rows.message(a).localeCompare(rows.message(b)) || a - b);
  const reasons = new Map();
  for (const row of failed) {
    const reason = rows.message(row).replace(/\d+(\.\d+)?/g, "…");
    const key = JSON.stringify([rows.status(row), rows.stage(row), reason]);
    reasons.set(key, (reasons.get(key) ?? 0) + 1);
  }
  const host = el("div", { class: "list" });
  const grid = new VirtualGrid(host, {
    layout: (width) => ({ columns: 1, height: width < 600 ? 113 : 58, gap: 1 }),
    make: () => el("div", { class: "line" }, el("b", { class: "badge" }), el("span", { class: "name" }), el("span", { class: "why" })),
    fill: (line, index) => {
      const row = failed[index];
      const [badge, name, why] = line.children;
      badge.className = `badge ${rows.status(row)}`;
      badge.textContent = rows.status(row).replaceAll("_", " ");
      name.textContent = rows.title(row);
      line.title = rows.folder(row) + rows.name(row);
      why.textContent = [rows.stage(row) && `in ${rows.stage(row).replaceAll("_", " ")}:`, rows.message(row) || "no face was found in it"].filter(Boolean).join(" ");
    },
  });
  const common = [...reasons].sort((a, b) => b[1] - a[1]).slice(0, 12);
  const node = el("section", { class: "failures" },
    failed.length === 0 && el("p", { class: "empty", text: "Nothing failed." }),
    common.length > 0 && el("table", {}, el("thead", {}, el("tr", {}, ...["Rows", "Status", "Stage", "Reason"].map((text) => el("th", { text })))),
      el("tbody", {}, ...common.map(([key, n]) => {
        const [status, stage, reason] = JSON.parse(key);
        return el("tr", {}, el("td", { class: "number", text: String(n) }), el("td", { text: status.replaceAll("_", " ") }), el("td", { text: stage.replaceAll("_", " ") || "–" }), el("td", { text: reason || "no face was found" }));
      }))),
    host);
  return { node, shown: () => grid.reset(failed.length), count: failed.length };
}

/** Returns the tab of distributions; a bar opens the faces that it counts. */
export function distributions(onrange) {
  return el("section", { class: "figures" }, ...page.figures.map((figure) => histogram(figure, onrange)));
}

/** Returns one distribution as a card. */
export function histogram(figure, onrange) {
  const width = 300, height = 90;
  const top = Math.max(...figure.counts);
  const step = width / figure.counts.length;
  const near = 1e-6 * Math.min(...figure.counts.map((_, i) => figure.edges[i + 1] - figure.edges[i]));
  const bars = figure.counts.map((n, i) => {
    const [low, high] = [figure.edges[i], figure.edges[i + 1]];
    const tall = n ? Math.max(2, (n / top) * height) : 0;
    const label = `${shown(low)} to ${withUnit(high, figure.unit)}: ${n.toLocaleString("en-US")}`;
    const bar = svg("g", { class: "bin", ...(onrange && n && { tabindex: 0, role: "button", "aria-label": `${figure.label} ${label}` }) },
      svg("title", { text: label }),
      svg("rect", { class: "reach", x: i * step, y: 0, width: step, height }),
      svg("rect", { class: "bar", x: i * step + 0.5, y: height - tall, width: step - 1, height: tall, rx: 1 }));
    if (onrange && n) {
      const go = () => onrange({ key: figure.key, low, high, near, last: i === figure.counts.length - 1 });
      bar.addEventListener("click", go);
      bar.addEventListener("keydown", (event) => event.key === "Enter" && go());
    }
    return bar;
  });
  return el("article", { class: "card" },
    el("h3", { text: figure.label }), el("p", { class: "hint", text: figure.meaning }),
    svg("svg", { viewBox: `0 0 ${width} ${height + 16}`, class: "histogram" }, ...bars,
      svg("line", { x1: 0, x2: width, y1: height, y2: height }),
      svg("text", { x: 0, y: height + 12, text: shown(figure.edges[0]) }),
      svg("text", { x: width, y: height + 12, "text-anchor": "end", text: withUnit(figure.edges.at(-1), figure.unit) })),
    el("p", { class: "summary" }, "median ", el("b", { text: withUnit(figure.median, figure.unit) }),
      `, 95 % ${figure.worst === "far" ? "within" : "below"} `, el("b", { text: withUnit(figure.p95, figure.unit) }), `, ${figure.n.toLocaleString("en-US")} faces`));
}

/** Returns the tab of the run: counts, throughput, time a stage, settings, versions. */
export function runTab() {
  const { run, totals } = page;
  const rate = run.images_per_second;
  const seconds = Object.values(totals.seconds).reduce((a, b) => a + b, 0);
  const numbers = [
    ["images", totals.images.toLocaleString("en-US")],
    ["faces", totals.faces.toLocaleString("en-US")],
    ["images a second", rate ? shown(rate) : "–", "from the first finished shard on"],
    ["wall time", run.seconds === undefined ? "–" : duration(run.seconds), "of the last start, with start-up"],
    ["work", duration(seconds), "seconds of all stages and processes"],
  ];
  const perImage = Object.entries(totals.seconds).map(([stage, s]) => [stage, (1000 * s) / Math.max(1, totals.images)]);
  const longest = Math.max(1e-9, ...perImage.map(([, ms]) => ms));
  return el("section", { class: "run" },
    el("div", { class: "numbers" }, ...numbers.map(([label, value, note]) => el("div", { class: "card" }, el("b", { text: value }), el("span", { text: label }), note && el("small", { text: note })))),
    !page.run.job && el("p", { class: "empty", text: "There is no run.json: this run did not come to its end." }),
    Object.keys(run.passed_over ?? {}).length > 0 && el("h3", { text: "Passed over by the listing" }), Object.keys(run.passed_over ?? {}).length > 0 && pairs(run.passed_over),
    el("h3", { text: "Milliseconds an image, by stage" }),
    el("div", { class: "stages" }, ...perImage.flatMap(([stage, ms]) => {
      const bar = el("i");
      bar.style.width = `${(100 * ms) / longest}%`;
      return [el("span", { text: stage }), el("span", { class: "track" }, bar), el("b", { text: shown(ms) })];
    })),
    ...details(run));
}

/** Returns settings, versions and the rest of a run.json. */
export function details(run) {
  const rest = Object.fromEntries(Object.entries(run).filter(([key, v]) => key !== "config" && key !== "versions" && (typeof v !== "object" || v === null)));
  return [
    run.config && el("h3", { text: "Settings" }), run.config && pairs(flat(run.config)),
    run.versions && el("h3", { text: "Versions" }), run.versions && pairs({ ...run.versions, ...flat(run.machine ?? {}) }),
    Object.keys(rest).length > 0 && el("h3", { text: "Record" }), pairs(rest),
  ].filter(Boolean);
}

/** Returns the settings in which runs differ, a column a run. */
export function differences(runs) {
  const settings = runs.map(({ run }) => flat(run.config ?? {}));
  const keys = [...new Set(settings.flatMap(Object.keys))].filter((key) => new Set(settings.map((s) => JSON.stringify(s[key]))).size > 1);
  if (!keys.length) return el("p", { class: "empty", text: "The settings of these runs are the same." });
  return el("div", {}, el("h3", { text: "Settings that differ" }), el("table", { class: "side-by-side" },
    el("thead", {}, el("tr", {}, el("th"), ...runs.map(({ name }) => el("th", { text: name })))),
    el("tbody", {}, ...keys.map((key) => el("tr", {}, el("th", { text: key }), ...settings.map((s) => el("td", { text: s[key] === undefined ? "–" : typeof s[key] === "string" ? s[key] : JSON.stringify(s[key]) })))))));
}

function flat(value, prefix = "", out = {}) {
  for (const [key, entry] of Object.entries(value)) {
    if (entry && typeof entry === "object" && !Array.isArray(entry)) flat(entry, `${prefix}${key}.`, out);
    else out[prefix + key] = entry;
  }
  return out;
}

function pairs(values) {
  const text = (v) => (v === null || v === undefined ? "–" : typeof v === "string" ? v : JSON.stringify(v));
  return el("dl", { class: "pairs" }, ...Object.entries(values).flatMap(([key, v]) => [el("dt", { text: key }), el("dd", { text: text(v) })]));
}

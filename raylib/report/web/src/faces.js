// The tab of faces: search, sort, filters, and the grid that opens the viewer.

import { page } from "./data.js";
import { el, shown, withUnit } from "./dom.js";
import * as rows from "./rows.js";
import { VirtualGrid } from "./virtual.js";

const POSES = { "": "any pose", front: "turned under 15°", side: "turned 15° to 30°", far: "turned over 30°" };
const SEVERAL = { "": "any image", one: "images with one face", more: "images with several faces" };

export class FaceList {
  constructor({ open, onchange }) {
    this.filter = { words: [], status: "", pose: "", several: "", range: null };
    this.order = [];
    this.onchange = onchange;
    const sorts = [
      ["name", "Name"],
      ...rows.figures.map((f) => [f.key, `Worst ${f.label.toLowerCase()}`]),
    ];
    this.sortKey = rows.figure.landmark_nme ? "landmark_nme" : "name";
    this.search = el("input", { type: "search", placeholder: "Search names and messages", "aria-label": "Search", oninput: () => {
      this.filter.words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
      this.update();
    } });
    this.sort = choice("Sort", sorts, this.sortKey, (key) => {
      this.sortKey = key;
      this.update();
    });
    this.reverse = el("button", { type: "button", class: "icon", title: "Turn the order round", "aria-label": "Turn the order round", "aria-pressed": "false", onclick: () => {
      this.reversed = !this.reversed;
      this.reverse.setAttribute("aria-pressed", this.reversed);
      this.update();
    } }, "⇅");
    const filter = (label, key, options) => choice(label, Object.entries(options), "", (value) => {
      this.filter[key] = value;
      this.update();
    });
    this.pose = rows.figure.yaw_deg ? filter("Pose", "pose", POSES) : null;
    this.several = page.totals.images_with_several_faces ? filter("Faces an image", "several", SEVERAL) : null;
    this.statusChips = el("div", { class: "chips", role: "group", "aria-label": "Status" });
    this.rangeChip = el("button", { type: "button", class: "chip", hidden: true, title: "Remove this filter", onclick: () => this.setRange(null) });
    this.tally = el("p", { class: "tally", role: "status" });
    this.empty = el("p", { class: "empty", hidden: true, text: "No row fits these filters." });
    this.host = el("div", { class: "grid" });
    this.node = el("section", { class: "faces" },
      this.statusChips,
      el("div", { class: "toolbar" }, this.search, this.sort, this.reverse, this.pose, this.several, this.rangeChip),
      this.tally, this.empty, this.host);
    this.grid = new VirtualGrid(this.host, {
      layout: (width) => {
        const columns = Math.max(2, Math.floor((width + 10) / (width < 600 ? 118 : 150)));
        const tile = (width - 10 * (columns - 1)) / columns;
        return { columns, height: Math.round(tile) + 46, gap: 10 };
      },
      make: () => el("button", { type: "button", class: "tile", onclick: (event) => open(Number(event.currentTarget.dataset.row)) },
        el("span", { class: "picture" }, el("img", { alt: "", draggable: "false" }), el("b", { class: "badge" }), el("span", { class: "which" })), el("span", { class: "name" }), el("small")),
      fill: (tile, index) => this.#fill(tile, this.order[index]),
    });
    this.#chips();
  }

  /** Shows only rows whose figure lies in a range of shown units; null for all. */
  setRange(range) {
    this.filter.range = range;
    this.rangeChip.hidden = !range;
    if (range) {
      const f = rows.figure[range.key];
      this.rangeChip.textContent = `${f.label} ${shown(range.low)} to ${withUnit(range.high, f.unit)} ×`;
    }
    this.update();
  }

  setStatus(status) {
    this.filter.status = status;
    this.#chips();
    this.update();
  }

  /** Returns the row `by` places from one in the present order that has something to open, or null. */
  step(row, by) {
    let at = this.order.indexOf(row) + by;
    while (at >= 0 && at < this.order.length) {
      if (rows.hasDetail(this.order[at])) return this.order[at];
      at += by;
    }
    return null;
  }

  reveal(row) {
    const at = this.order.indexOf(row);
    if (at >= 0) this.grid.reveal(at);
  }

  update() {
    const { words, status, pose, several, range } = this.filter;
    const out = [];
    for (let row = 0; row < rows.count; row++) {
      if (status && rows.status(row) !== status) continue;
      if (pose || several || range) {
        if (!rows.hasFace(row)) continue;
        const turn = Math.abs(rows.value("yaw_deg", row) ?? NaN);
        if (pose && pose !== (turn < 15 ? "front" : turn <= 30 ? "side" : turn > 30 ? "far" : "none")) continue;
        if (several && (several === "more") !== rows.facesOfImage(row) > 1) continue;
        if (range) {
          const v = rows.value(range.key, row);
          if (v === null || v < range.low - range.near || (v >= range.high - range.near && !range.last)) continue;
        }
      }
      if (words.length && !rows.matches(row, words)) continue;
      out.push(row);
    }
    const key = this.sortKey;
    if (key !== "name") {
      const bad = new Float64Array(rows.count);
      for (const row of out) bad[row] = rows.badness(key, row);
      out.sort((a, b) => (bad[b] > bad[a] ? 1 : bad[b] < bad[a] ? -1 : a - b));
    } else {
      out.sort((a, b) => collator.compare(rows.name(a), rows.name(b)) || a - b);
    }
    if (this.reversed) out.reverse();
    this.order = out;
    this.tally.textContent = `${out.length.toLocaleString("en-US")} of ${rows.count.toLocaleString("en-US")} rows${rows.count < page.totals.rows ? ` listed here; the run has ${page.totals.rows.toLocaleString("en-US")}` : ""}`;
    this.empty.hidden = out.length > 0;
    this.grid.reset(out.length);
    this.onchange?.();
  }

  #chips() {
    const counts = page.totals.rows_by_status;
    const chip = (status, label, n) => el("button", { type: "button", class: "chip", "data-status": status, "aria-pressed": String(this.filter.status === status), onclick: () => this.setStatus(status) },
      status && el("i", { class: `dot ${status}` }), label, el("b", { text: n.toLocaleString("en-US") }));
    this.statusChips.replaceChildren(
      chip("", "all rows", page.totals.rows),
      ...page.statuses.filter((s) => counts[s]).map((s) => chip(s, s.replaceAll("_", " "), counts[s])),
    );
  }

  #fill(tile, row) {
    tile.dataset.row = row;
    const [picture, name, note] = tile.children;
    const [image, badge, which] = picture.children;
    const status = rows.status(row);
    image.removeAttribute("src");
    image.hidden = true;
    tile.classList.toggle("closed", !rows.hasDetail(row));
    tile.disabled = !rows.hasDetail(row);
    badge.hidden = status === "ok";
    badge.className = `badge ${status}`;
    badge.textContent = status.replaceAll("_", " ");
    name.textContent = rows.name(row);
    which.textContent = rows.facesOfImage(row) > 1 ? `${page.rows.face_index[row] + 1} of ${rows.facesOfImage(row)}` : "";
    which.hidden = !which.textContent;
    tile.title = `${rows.folder(row)}${rows.name(row)}${rows.message(row) ? `\n${rows.message(row)}` : ""}`;
    note.textContent = this.#note(row);
    rows.thumbnail(row).then((thumb) => {
      if (tile.dataset.row !== String(row) || !thumb) return;
      image.src = thumb;
      image.hidden = false;
    });
  }

  #note(row) {
    if (rows.status(row) !== "ok") return rows.message(row) || rows.stage(row);
    const key = this.sortKey === "name" ? "landmark_nme" : this.sortKey;
    const f = rows.figure[key];
    const v = f && rows.value(key, row);
    return v === null || v === undefined ? "" : `${withUnit(v, f.unit, 2)} ${f.short}`;
  }
}

const collator = new Intl.Collator("en", { numeric: true });

function choice(label, options, value, onchange) {
  const select = el("select", { "aria-label": label, onchange: () => onchange(select.value) },
    ...options.map(([key, text]) => el("option", { value: key, selected: key === value, text })));
  return select;
}

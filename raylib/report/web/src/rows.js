// The listed rows: texts decoded, figures in the units that are shown.

import { jpeg, pack, page } from "./data.js";
import { withUnit } from "./dom.js";

const rows = page.rows ?? { count: 0 }; // a training's page has none

export const count = rows.count;
export const figures = page.figures ?? [];
export const figure = Object.fromEntries(figures.map((f) => [f.key, f]));

const text = (column) => (row) => (rows[column].codes[row] < 0 ? "" : rows[column].texts[rows[column].codes[row]]);

export const status = text("status");
export const stage = text("error_stage");
export const message = text("message");
export const detector = text("detector");
export const method = text("method");
export const model = text("morphable_model");
export const folder = text("folder");
export const name = (row) => rows.name[row];
export const hasFace = (row) => rows.face_index[row] !== null;
export const hasDetail = (row) => rows.place[row] !== null;

/** Returns a row's figure in shown units, null where it has none. */
export function value(key, row) {
  const raw = rows.figures[key]?.[row];
  return raw === null || raw === undefined ? null : raw * figure[key].scale;
}

/** Returns how bad a figure's value is: more is worse. */
export function badness(key, row) {
  const v = value(key, row);
  if (v === null) return -Infinity;
  return { high: v, low: -v, far: Math.abs(v) }[figure[key].worst];
}

const lowered = [];
/** Tells whether every word stands in the row's name, folder, id or message. */
export function matches(row, words) {
  lowered[row] ??= `${folder(row)}${name(row)} ${rows.face_id[row] ?? ""} ${message(row)}`.toLowerCase();
  return words.every((word) => lowered[row].includes(word));
}

const facesOf = new Map();
for (let row = 0; row < count; row++) {
  if (hasFace(row)) facesOf.set(folder(row) + name(row), Math.max(facesOf.get(folder(row) + name(row)) ?? 0, rows.face_index[row] + 1));
}
/** Returns how many faces the row's image has, as far as they are listed. */
export const facesOfImage = (row) => facesOf.get(folder(row) + name(row)) ?? 0;

/** Returns what a row is called: the file, and which of its faces. */
export const title = (row) => (facesOfImage(row) > 1 ? `${name(row)} · face ${rows.face_index[row] + 1}` : name(row));

const FILES = [["OBJ", "obj"], ["GLB", "glb"], ["Texture", "png"], ["Preview", "-preview.png"]];
/** Returns label and address of the run's files of a face, relative to the page. */
export function files(row) {
  const id = rows.face_id[row];
  if (!page.links || !id) return [];
  return FILES.filter((_, bit) => rows.files[row] & (1 << bit)).map(([label, end]) => [
    label,
    `meshes/${id.split("-")[0]}/${id}${end.startsWith("-") ? end : `.${end}`}`,
  ]);
}

/** Resolves to the address of a row's thumbnail, null where it has none. */
export const thumbnail = (row) => small(row, 0);
/** Resolves to the address of the picture of a row's bare shape, null where it has none. */
export const clay = (row) => small(row, 1);

async function small(row, which) {
  const [name, at] = rows.thumbs[row];
  try {
    const thumb = (await pack(name))[at]?.[which];
    return thumb ? jpeg(thumb) : null;
  } catch {
    return null; // the file with it does not lie beside the page
  }
}

/** Returns what there is to say of a row, as pairs of label and text. */
export function facts(row) {
  const out = figures
    .map((f) => [f.label, value(f.key, row), f.unit])
    .filter(([, number]) => number !== null)
    .map(([label, number, unit]) => [label, withUnit(number, unit)]);
  const texts = [
    ["Status", status(row)], ["Why", message(row)], ["Image", folder(row) + name(row)],
    ["Size", rows.width[row] && `${rows.width[row]} × ${rows.height[row]} px`],
    ["Face", rows.face_id[row]], ["Detector", detector(row)], ["Method", method(row)], ["Model", model(row)],
  ];
  return [...out, ...texts.filter(([, text]) => text)];
}

// The listed rows: texts decoded, figures in the units that are shown.

import { page } from "./data.js";

const { rows } = page;

export const count = rows.count;
export const figures = page.figures;
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
  if (hasFace(row)) facesOf.set(folder(row) + name(row), (facesOf.get(folder(row) + name(row)) ?? 0) + 1);
}
/** Returns how many listed faces the row's image has. */
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

// What a vertex is tinted by in each view, and why a view may not be had.

import { encoded, linear, project } from "./mesh.js";
import { shading } from "./light.js";

const HEAT = ["#1b2a6b", "#2b6cb8", "#33a9a3", "#8fcf5a", "#f3d84b", "#f08a2c", "#c8261b"].map((hex) =>
  [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255),
);

/** Returns the color of a share 0..1, sRGB 0..1; grey for what is not known. */
export function heat(share) {
  if (!(share >= 0)) return [0.55, 0.55, 0.55];
  const at = Math.min(share, 1) * (HEAT.length - 1);
  const low = Math.min(Math.floor(at), HEAT.length - 2);
  return HEAT[low].map((value, i) => value + (HEAT[low + 1][i] - value) * (at - low));
}

export const heatGradient = () =>
  `linear-gradient(90deg, ${HEAT.map((rgb) => `rgb(${rgb.map((v) => Math.round(255 * v)).join(" ")})`).join(", ")})`;

const SOURCES = [[0.24, 0.62, 0.42], [0.93, 0.72, 0.26], [0.62, 0.42, 0.66]];
export const SOURCE_NAMES = ["seen in the photograph", "mirrored from the other side", "filled from around it"];
export const sourceColor = (source) => SOURCES[source] ?? [0.5, 0.5, 0.5];

/** Returns a vertex array of colors from a function of the vertex. */
export function tinted(mesh, color) {
  const out = new Float32Array(mesh.verts.length);
  for (let v = 0; v < mesh.size; v++) out.set(color(v), 3 * v);
  return out;
}

/** Returns where each vertex is in the square of the photograph (0..1, from below), and how well it is seen. */
export function castOn(mesh, { camera, square: [x0, y0, side] }) {
  return tinted(mesh, (v) => {
    const [x, y] = project(camera, ...mesh.verts.subarray(3 * v, 3 * v + 3));
    const seen = !mesh.source || mesh.source[v] === 0 ? (mesh.visibility?.[v] ?? 1) : 0;
    return [(x - x0) / side, 1 - (y - y0) / side, seen];
  });
}

/** Returns the sRGB colors 0..1 of a picture at the vertices; `at` holds their places (0..1, from below), `step` apart. */
export function pictureColors(mesh, image, at, step) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
  return tinted(mesh, (v) => {
    const x = Math.min(width - 1, Math.max(0, Math.floor(at[step * v] * width)));
    const y = Math.min(height - 1, Math.max(0, Math.floor((1 - at[step * v + 1]) * height)));
    return [0, 1, 2].map((c) => data[4 * (y * width + x) + c] / 255);
  });
}

const REACH_MM = 11; // how far a landmark's distance speaks for the surface around it

/** Returns the landmarks' distance in millimetres at each vertex, NaN away from all of them. */
export function landmarkErrors(mesh, detail) {
  const { anchors, distances_px: distances, camera } = detail;
  const points = anchors
    .map((v, i) => ({ v, px: distances[i] }))
    .filter(({ v, px }) => v >= 0 && px !== null)
    .map(({ v, px }) => {
      const [x, y, z] = mesh.verts.subarray(3 * v, 3 * v + 3);
      const depth = camera.R[6] * x + camera.R[7] * y + camera.R[8] * z + camera.T[2];
      return { x, y, z, mm: (px * depth) / camera.focal };
    });
  const out = new Float32Array(mesh.size);
  for (let v = 0; v < mesh.size; v++) {
    const [x, y, z] = mesh.verts.subarray(3 * v, 3 * v + 3);
    let sum = 0, weight = 0;
    for (const p of points) {
      const square = (p.x - x) ** 2 + (p.y - y) ** 2 + (p.z - z) ** 2;
      const w = Math.exp(-square / (2 * REACH_MM ** 2));
      sum += w * p.mm;
      weight += w;
    }
    out[v] = weight > 0.3 ? sum / weight : NaN;
  }
  return out;
}

/** Returns how far albedo times shading is from the photograph at each vertex, 0..1 in sRGB, NaN where it is not seen. */
export function photometricErrors(mesh, transfer, light, photoColors) {
  const out = new Float32Array(mesh.size);
  for (let v = 0; v < mesh.size; v++) {
    if (mesh.source && mesh.source[v] !== 0) {
      out[v] = NaN;
      continue;
    }
    const shade = shading(transfer.subarray(9 * v, 9 * v + 9), light);
    let sum = 0;
    for (let c = 0; c < 3; c++) {
      const made = encoded(Math.min(1, linear(mesh.albedo[3 * v + c]) * shade[c]));
      sum += Math.abs(made - photoColors[3 * v + c]) / 3;
    }
    out[v] = sum;
  }
  return out;
}

/** Returns what a white matte surface reflects at each vertex, the mean of the channels. */
export function brightness(transfer, light) {
  return Array.from({ length: transfer.length / 9 }, (_, v) => shading(transfer.subarray(9 * v, 9 * v + 9), light).reduce((a, b) => a + b, 0) / 3);
}

/** Returns the value below which a share of the known ones lies. */
export function quantile(values, share) {
  const known = values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
  return known.length ? known[Math.floor(share * (known.length - 1))] : 0;
}

// Faces out of the page's packs, and what follows from their vertices.

import { bytes, inflated, page } from "./data.js";

const topologies = new Map();

/** Returns a topology of the page by its name. */
export function topology(size) {
  if (!topologies.has(size)) topologies.set(size, unpackTopology(page.rows.topologies[size]));
  return topologies.get(size);
}

/** Returns a topology's arrays. */
export function unpackTopology(packed) {
  return {
    name: packed.name,
    size: packed.verts,
    base: new Float32Array(bytes(packed.base).buffer),
    faces: new Uint32Array(bytes(packed.faces).buffer),
    uv: new Float32Array(bytes(packed.uv).buffer),
  };
}

/** Resolves to the arrays of a face: verts (mm), normals, and those of visibility, source, albedo, colors, sigma that it has. */
export async function unpackMesh(detail, shared = topology(detail.topology)) {
  const data = await inflated(detail.mesh.data);
  const n = shared.size;
  const out = { ...shared };
  let offset = 0;
  const take = (length) => data.subarray(offset, (offset += length));
  for (const name of detail.mesh.arrays) {
    if (name === "verts") {
      const steps = whole16(take(6 * n), n, 3);
      out.verts = shared.base.map((value, i) => value + steps[i] * page.step_mm);
    } else if (name === "sigma") out.sigma = Float32Array.from(whole16(take(2 * n), n, 1), (v) => v * page.sigma_step_mm);
    else if (name === "source") out.source = take(n).slice();
    else if (name === "visibility") out.visibility = whole8(take(n), n, 1);
    else out[name] = whole8(take(3 * n), n, 3); // albedo and colors, sRGB 0..1
  }
  out.normals = vertexNormals(out.verts, shared.faces);
  return out;
}

/** Sums up differences of 16-bit columns whose low bytes come first; returns rows. */
function whole16(data, n, columns) {
  const out = new Float32Array(n * columns);
  const high = n * columns;
  for (let c = 0; c < columns; c++) {
    let sum = 0;
    for (let v = 0; v < n; v++) {
      const at = c * n + v;
      sum = (sum + (data[at] | (data[high + at] << 8))) & 0xffff;
      out[v * columns + c] = (sum << 16) >> 16;
    }
  }
  return out;
}

function whole8(data, n, columns) {
  const out = new Float32Array(n * columns);
  for (let c = 0; c < columns; c++) {
    let sum = 0;
    for (let v = 0; v < n; v++) {
      sum = (sum + data[c * n + v]) & 0xff;
      out[v * columns + c] = sum / 255;
    }
  }
  return out;
}

/** Returns unit normals: the mean of the triangles' normals weighted by area. */
export function vertexNormals(verts, faces) {
  const out = new Float32Array(verts.length);
  for (let f = 0; f < faces.length; f += 3) {
    const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
    const e = [0, 1, 2].map((i) => verts[b + i] - verts[a + i]);
    const g = [0, 1, 2].map((i) => verts[c + i] - verts[a + i]);
    const normal = [e[1] * g[2] - e[2] * g[1], e[2] * g[0] - e[0] * g[2], e[0] * g[1] - e[1] * g[0]];
    for (const corner of [a, b, c]) for (let i = 0; i < 3; i++) out[corner + i] += normal[i];
  }
  for (let v = 0; v < out.length; v += 3) {
    const length = Math.hypot(out[v], out[v + 1], out[v + 2]) || 1;
    for (let i = 0; i < 3; i++) out[v + i] /= length;
  }
  return out;
}

/** Returns a point's place in the photograph, pixels; `camera` is a row's. */
export function project({ R, T, focal, principal }, x, y, z) {
  const p = [0, 1, 2].map((i) => R[3 * i] * x + R[3 * i + 1] * y + R[3 * i + 2] * z + T[i]);
  return [(p[0] / p[2]) * focal + principal[0], (p[1] / p[2]) * focal + principal[1], p[2]];
}

/** Returns linear light of an sRGB value, both in 0..1. */
export const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
/** Returns the sRGB value of linear light. */
export const encoded = (v) => (v <= 0.0031308 ? v * 12.92 : 1.055 * v ** (1 / 2.4) - 0.055);

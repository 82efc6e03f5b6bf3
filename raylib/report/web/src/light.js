// The physics of raylib/lighting/spherical_harmonics.py and raylib/geometry/visibility.py: spherical harmonics of order 2 and a matte surface's
// answer to them with its own shadow. A test holds both against each other.

const Y0 = Math.sqrt(1 / (4 * Math.PI));
const Y1 = Math.sqrt(3 / (4 * Math.PI));
const Y2 = Math.sqrt(15 / (4 * Math.PI));
const Y20 = Math.sqrt(5 / (16 * Math.PI));
const Y22 = Math.sqrt(15 / (16 * Math.PI));
const LAMBERT = [1, 2 / 3, 2 / 3, 2 / 3, 1 / 4, 1 / 4, 1 / 4, 1 / 4, 1 / 4]; // A_l / pi

/** Returns the nine real harmonics of a unit vector. */
export function basis(x, y, z) {
  return [
    Y0, Y1 * y, Y1 * z, Y1 * x,
    Y2 * x * y, Y2 * y * z, Y20 * (3 * z * z - 1), Y2 * x * z, Y22 * (x * x - y * y),
  ];
}

/** Returns the transfer of a matte surface that nothing shadows. */
export const freeTransfer = (x, y, z) => basis(x, y, z).map((value, i) => value * LAMBERT[i]);

/** Returns nine RGB coefficients of a lamp of one irradiance from a direction over even light from everywhere. */
export function lampLight([x, y, z], strength, ambient, color) {
  const lamp = basis(x, y, z);
  return lamp.map((value, i) =>
    color.map((c) => c * strength * Math.PI * value + (i === 0 ? ambient * Math.sqrt(4 * Math.PI) : 0)),
  );
}

/** Returns what a white matte surface with this transfer reflects. */
export function shading(transfer, light) {
  const out = [0, 0, 0];
  for (let i = 0; i < 9; i++) for (let c = 0; c < 3; c++) out[c] += transfer[i] * light[i][c];
  return out.map((value) => Math.max(0, value));
}

/** Returns unit vectors spread evenly over the sphere, x y z in turn: a Fibonacci spiral. */
export function sphereDirections(count) {
  const out = new Float32Array(3 * count);
  for (let i = 0; i < count; i++) {
    const z = 1 - (2 * (i + 0.5)) / count;
    const angle = (i + 0.5) * Math.PI * (3 - Math.sqrt(5));
    const radius = Math.sqrt(1 - z * z);
    out.set([radius * Math.cos(angle), radius * Math.sin(angle), z], 3 * i);
  }
  return out;
}

/** Returns nine free transfer coefficients a vertex. */
export function lambertTransfer(normals) {
  const count = normals.length / 3;
  const out = new Float32Array(9 * count);
  for (let v = 0; v < count; v++) {
    out.set(freeTransfer(normals[3 * v], normals[3 * v + 1], normals[3 * v + 2]), 9 * v);
  }
  return out;
}

const BIAS = 1e-4; // a blocker is in front by at least this share of the mesh's extent

/** Returns nine transfer coefficients a vertex with the mesh's own shadow, from `count` directions. */
export function selfShadowTransfer(verts, normals, faces, count = 256) {
  const transfer = lambertTransfer(normals);
  const directions = sphereDirections(count);
  const cast = caster(verts, normals, faces);
  for (let s = 0; s < count; s++) {
    const [x, y, z] = directions.subarray(3 * s, 3 * s + 3);
    const harmonics = basis(x, y, z).map((value) => (value * 4) / count);
    for (const v of cast(x, y, z)) {
      const cosine = normals[3 * v] * x + normals[3 * v + 1] * y + normals[3 * v + 2] * z;
      for (let i = 0; i < 9; i++) transfer[9 * v + i] -= cosine * harmonics[i];
    }
  }
  return transfer;
}

/** Returns a function of a direction that returns the vertices which face it but which the mesh hides from it. */
function caster(verts, normals, faces) {
  const n = verts.length / 3;
  const cells = Math.max(1, Math.min(128, Math.floor(Math.sqrt(n))));
  let extent = 0;
  for (let axis = 0; axis < 3; axis++) {
    let low = Infinity, high = -Infinity;
    for (let i = axis; i < verts.length; i += 3) {
      low = Math.min(low, verts[i]);
      high = Math.max(high, verts[i]);
    }
    extent = Math.max(extent, high - low);
  }
  const bias = BIAS * extent;
  const u = new Float32Array(n), w = new Float32Array(n), height = new Float32Array(n);
  const cell = new Int32Array(n), members = new Int32Array(n), hidden = new Uint8Array(n);
  const start = new Int32Array(cells * cells + 2);

  return (dx, dy, dz) => {
    // Two axes across the direction (Duff et al. 2017).
    const sign = dz >= 0 ? 1 : -1;
    const a = -1 / (sign + dz), b = dx * dy * a;
    const ux = 1 + sign * dx * dx * a, uy = sign * b, uz = -sign * dx;
    const wx = b, wy = sign + dy * dy * a, wz = -dy;
    let uMin = Infinity, uMax = -Infinity, wMin = Infinity, wMax = -Infinity;
    for (let v = 0, i = 0; v < n; v++, i += 3) {
      u[v] = verts[i] * ux + verts[i + 1] * uy + verts[i + 2] * uz;
      w[v] = verts[i] * wx + verts[i + 1] * wy + verts[i + 2] * wz;
      height[v] = verts[i] * dx + verts[i + 1] * dy + verts[i + 2] * dz;
      if (u[v] < uMin) uMin = u[v];
      if (u[v] > uMax) uMax = u[v];
      if (w[v] < wMin) wMin = w[v];
      if (w[v] > wMax) wMax = w[v];
    }
    const perU = (cells / Math.max(uMax - uMin, 1e-12)) * 0.99999;
    const perW = (cells / Math.max(wMax - wMin, 1e-12)) * 0.99999;
    start.fill(0);
    let facing = 0, lowest = Infinity;
    for (let v = 0, i = 0; v < n; v++, i += 3) {
      cell[v] = -1;
      if (normals[i] * dx + normals[i + 1] * dy + normals[i + 2] * dz > 0) {
        cell[v] = Math.trunc((w[v] - wMin) * perW) * cells + Math.trunc((u[v] - uMin) * perU);
        start[cell[v] + 1]++;
        facing++;
        if (height[v] < lowest) lowest = height[v];
      }
    }
    const found = [];
    if (!facing) return found;
    for (let c = 0; c < cells * cells; c++) start[c + 1] += start[c];
    const next = start.slice();
    for (let v = 0; v < n; v++) if (cell[v] >= 0) members[next[cell[v]]++] = v;
    for (let f = 0; f < faces.length; f += 3) {
      const i = faces[f], j = faces[f + 1], k = faces[f + 2];
      const ui = u[i], uj = u[j], uk = u[k], wi = w[i], wj = w[j], wk = w[k];
      const area = (uj - ui) * (wk - wi) - (wj - wi) * (uk - ui);
      if (area >= 0) continue; // only what turns away from the direction blocks
      const top = Math.max(height[i], height[j], height[k]) - bias;
      if (top <= lowest) continue;
      const firstColumn = Math.trunc((Math.min(ui, uj, uk) - uMin) * perU);
      const lastColumn = Math.trunc((Math.max(ui, uj, uk) - uMin) * perU);
      const firstRow = Math.trunc((Math.min(wi, wj, wk) - wMin) * perW);
      const lastRow = Math.trunc((Math.max(wi, wj, wk) - wMin) * perW);
      for (let row = firstRow; row <= lastRow; row++) {
        const end = start[row * cells + lastColumn + 1];
        for (let m = start[row * cells + firstColumn]; m < end; m++) {
          const v = members[m];
          if (hidden[v] || height[v] >= top || v === i || v === j || v === k) continue;
          const ei = (uj - u[v]) * (wk - w[v]) - (wj - w[v]) * (uk - u[v]);
          const ej = (uk - u[v]) * (wi - w[v]) - (wk - w[v]) * (ui - u[v]);
          const ek = area - ei - ej;
          if (ei > 0 || ej > 0 || ek > 0) continue;
          if ((ei * height[i] + ej * height[j] + ek * height[k]) / area > height[v] + bias) {
            hidden[v] = 1;
            found.push(v);
          }
        }
      }
    }
    for (const v of found) hidden[v] = 0;
    return found;
  };
}

// Meshes as files, made in the page from what it holds; raylib/io/meshes.py writes the run's own.

const FLOAT = 5126, UINT = 5125, ARRAY = 34962, ELEMENT = 34963;

/** Returns a GLB in metres, +y up, looking along +z: textured where there is a texture, else with colors (linear);
 *  `lit` for an albedo, which viewers shall light, not for a photograph, which holds its own light. */
export function glb(mesh, name, textureJpeg, colors, lit) {
  const chunks = [];
  const views = [];
  const accessors = [];
  let length = 0;
  const add = (data, target) => {
    const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const padded = new Uint8Array(Math.ceil(raw.length / 4) * 4);
    padded.set(raw);
    views.push({ buffer: 0, byteOffset: length, byteLength: raw.length, ...(target && { target }) });
    chunks.push(padded);
    length += padded.length;
    return views.length - 1;
  };
  const accessor = (data, width, target, bounds) => {
    const type = { 1: "SCALAR", 2: "VEC2", 3: "VEC3" }[width];
    const entry = { bufferView: add(data, target), componentType: target === ELEMENT ? UINT : FLOAT, count: data.length / width, type };
    accessors.push(bounds ? { ...entry, ...extremes(data, width) } : entry);
    return accessors.length - 1;
  };
  const indices = accessor(mesh.faces, 1, ELEMENT);
  const attributes = {
    POSITION: accessor(mesh.verts.map((v) => v / 1000), 3, ARRAY, true),
    NORMAL: accessor(mesh.normals, 3, ARRAY),
  };
  const look = { metallicFactor: 0, roughnessFactor: 1 };
  const document_ = {
    asset: { version: "2.0", generator: "physface report" },
    ...(!lit && { extensionsUsed: ["KHR_materials_unlit"] }),
    scene: 0,
    scenes: [{ nodes: [0] }],
    nodes: [{ name, mesh: 0 }],
    meshes: [{ name, primitives: [{ attributes, indices, material: 0 }] }],
    materials: [{ name: "face", pbrMetallicRoughness: look, doubleSided: true, ...(!lit && { extensions: { KHR_materials_unlit: {} } }) }],
  };
  if (textureJpeg) {
    attributes.TEXCOORD_0 = accessor(mesh.uv.map((v, i) => (i % 2 ? 1 - v : v)), 2, ARRAY);
    look.baseColorTexture = { index: 0 };
    document_.images = [{ bufferView: add(textureJpeg), mimeType: "image/jpeg" }];
    document_.textures = [{ source: 0, sampler: 0 }];
    document_.samplers = [{ magFilter: 9729, minFilter: 9987, wrapS: 33071, wrapT: 33071 }];
  } else if (colors) {
    attributes.COLOR_0 = accessor(colors, 3, ARRAY);
  }
  Object.assign(document_, { accessors, bufferViews: views, buffers: [{ byteLength: length }] });
  return container(document_, chunks, length);
}

function extremes(data, width) {
  const min = Array(width).fill(Infinity), max = Array(width).fill(-Infinity);
  data.forEach((value, i) => {
    min[i % width] = Math.min(min[i % width], value);
    max[i % width] = Math.max(max[i % width], value);
  });
  return { min, max };
}

function container(document_, chunks, length) {
  let text = new TextEncoder().encode(JSON.stringify(document_));
  const padded = new Uint8Array(Math.ceil(text.length / 4) * 4).fill(32);
  padded.set(text);
  text = padded;
  const out = new Uint8Array(28 + text.length + length);
  const view = new DataView(out.buffer);
  [0x46546c67, 2, out.length, text.length, 0x4e4f534a].forEach((value, i) => view.setUint32(4 * i, value, true));
  out.set(text, 20);
  view.setUint32(20 + text.length, length, true);
  view.setUint32(24 + text.length, 0x004e4942, true);
  let at = 28 + text.length;
  for (const chunk of chunks) {
    out.set(chunk, at);
    at += chunk.length;
  }
  return out;
}

/** Returns an OBJ in millimetres, smooth, with texture coordinates, and vertex colors (sRGB 0..1) where there are any. */
export function obj(mesh, colors) {
  const lines = ["# canonical face space, millimetres"];
  const fixed = (values, from, count, digits) => Array.from(values.subarray(from, from + count), (v) => v.toFixed(digits)).join(" ");
  for (let v = 0; v < mesh.verts.length; v += 3) {
    lines.push(`v ${fixed(mesh.verts, v, 3, 4)}${colors ? ` ${fixed(colors, v, 3, 4)}` : ""}`);
  }
  for (let v = 0; v < mesh.uv.length; v += 2) lines.push(`vt ${fixed(mesh.uv, v, 2, 6)}`);
  lines.push("s 1");
  for (let f = 0; f < mesh.faces.length; f += 3) {
    lines.push(`f ${Array.from(mesh.faces.subarray(f, f + 3), (v) => `${v + 1}/${v + 1}`).join(" ")}`);
  }
  return new TextEncoder().encode(`${lines.join("\n")}\n`);
}

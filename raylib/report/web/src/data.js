// What the page holds: the data block at once, packs when they are needed.

export const page = JSON.parse(document.getElementById("data").textContent);

const packs = new Map(); // name -> promise of its content
const waiting = new Map(); // name -> resolve, of files that are being loaded

window.physfacePack = (name, content) => {
  waiting.get(name)?.(content);
  waiting.delete(name);
};

/** Resolves to a pack's content: from the page, or from the file beside it (a script, since file:// forbids fetch). */
export function pack(name) {
  if (!packs.has(name)) packs.set(name, read(name));
  return packs.get(name);
}

function read(name) {
  const block = document.getElementById(`pack-${name}`);
  if (block) return Promise.resolve(JSON.parse(block.textContent));
  return new Promise((resolve, reject) => {
    waiting.set(name, resolve);
    const script = document.createElement("script");
    script.src = `${page.packs}${name}.js`;
    script.onerror = () => {
      packs.delete(name); // so that another try is possible
      reject(new Error(`${script.getAttribute("src")} does not lie beside this page`));
    };
    script.onload = () => script.remove();
    document.head.append(script);
  });
}

/** Returns the bytes of a base64 text. */
export function bytes(base64) {
  const text = atob(base64);
  const out = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
  return out;
}

/** Resolves to the bytes that a zlib stream in base64 holds. */
export async function inflated(base64) {
  const stream = new Blob([bytes(base64)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export const jpeg = (base64) => `data:image/jpeg;base64,${base64}`;

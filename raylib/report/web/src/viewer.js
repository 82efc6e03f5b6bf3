// The viewer of one face: a dialog over the page.

import { jpeg, pack, page, bytes } from "./data.js";
import { download, el, shown, svg } from "./dom.js";
import { glb, obj } from "./exports.js";
import { lambertTransfer, lampLight, selfShadowTransfer, shading } from "./light.js";
import { LightBall } from "./lightball.js";
import { brightness, castOn, heat, heatGradient, landmarkErrors, photometricErrors, pictureColors, quantile, SOURCE_NAMES, sourceColor, tinted } from "./looks.js";
import { encoded, linear, project, unpackMesh } from "./mesh.js";
import { FaceScene, LOOK } from "./scene.js";

const CLAY = 0.72; // albedo of the bare shape under the lamp
const BRIGHTEST = 0.85; // what the bare shape's brightest parts reflect in an estimated light
const KEYS = [
  ["1 – 7", "the views"], ["← → ↑ ↓", "turn"], ["+ −", "nearer, further"], ["R", "from the front"],
  ["W", "wireframe"], ["L", "landmarks"], ["O", "over the photograph"], ["S", "self-shadow"],
  ["J K", "next, previous face"], ["Esc", "close"],
];

const notEstimated = (face) => `not estimated by method ${face.method}`;

const VIEWS = [
  { key: "texture", label: "Photograph", why: (f) => (f.mesh.albedo ? !f.photo && "the photograph is not in this report" : !f.image && f.noPixels) },
  { key: "shape", label: "Shape", light: true },
  { key: "albedo", label: "Albedo", why: (f) => !f.mesh.albedo && notEstimated(f) },
  { key: "lit", label: "Lit", light: true, why: (f) => !f.mesh.albedo && notEstimated(f) },
  { key: "error", label: "Error", why: (f) => !f.errors && "the model's landmarks are not at hand" },
  { key: "sigma", label: "Uncertainty", why: (f) => !f.mesh.sigma && notEstimated(f) },
  { key: "seen", label: "Seen", why: (f) => !f.mesh.source && "the rows do not say what was seen" },
];

export class Viewer {
  /**
   * `facts(row)` returns pairs of label and text; `step(row, by)` the next row in the list's order, or null;
   * `variants(row)` the same face in several runs, as pairs of label and row.
   */
  constructor({ facts, step, title, links, onclose, onshow, variants }) {
    Object.assign(this, { facts, step, title, links, onclose, onshow, variants });
    this.lamp = { direction: [0.45, 0.45, 0.77], strength: 0.85, ambient: 0.18 };
    this.state = { view: "texture", wires: false, dots: false, overlay: false, shadow: true, estimated: true, opacity: 0.7 };
    this.#build();
  }

  get open() {
    return this.dialog.open;
  }

  /** Opens a row's face. */
  async show(row) {
    this.row = row;
    this.face = null;
    const place = page.rows.place[row];
    const opened = !this.dialog.open;
    if (opened) {
      this.dialog.showModal();
      this.#scene();
      this.canvas.focus({ preventScroll: true });
    }
    this.heading.textContent = this.title(row);
    this.heading.title = this.heading.textContent;
    this.message.textContent = "";
    this.dialog.dataset.state = "loading";
    this.factList.replaceChildren(...this.facts(row).flatMap(([name, text]) => [el("dt", { text: name }), el("dd", { text })]));
    this.files.replaceChildren(...this.links(row).map(([label, href]) => el("a", { href, download: true, text: label })));
    this.filesRow.hidden = !this.files.childNodes.length;
    const variants = this.variants?.(row) ?? [];
    this.variantButtons.replaceChildren(...variants.map(([label, other], i) => el("button", { type: "button", "data-row": other, "aria-pressed": String(other === row), disabled: other === null, title: other === null ? "this run has no such mesh" : null, onclick: () => this.show(other) }, label, el("kbd", { text: "AB"[i] ?? String(i + 1) }))));
    this.variantBox.hidden = variants.length < 2;
    for (const [button, by] of [[this.previous, -1], [this.next, 1]]) button.disabled = this.step(row, by) === null;
    this.onshow?.(row);
    try {
      const detail = (await pack(place[0]))[place[1]];
      if (this.row !== row) return; // another one was asked for meanwhile
      if (!detail.mesh) this.#withoutMesh(detail);
      else await this.#withMesh(detail, row);
    } catch (error) {
      this.message.textContent = `This face cannot be shown: ${error.message}.`;
      this.dialog.dataset.state = "failed";
    }
  }

  close() {
    this.dialog.close();
  }

  async #withMesh(detail, row) {
    const mesh = await unpackMesh(detail);
    const image = detail.texture ? await loaded(jpeg(detail.texture)) : null;
    // Where an albedo was estimated the texture is that; the photograph is then cast on the face.
    const photo = mesh.albedo && detail.photo ? await loaded(jpeg(detail.photo)) : null;
    if (this.row !== row) return;
    const method = page.rows.method.texts[page.rows.method.codes[row]] ?? "unknown";
    const noPixels = page.privacy === "none" ? "the run wrote no texture" : "the run keeps pixels out of its output";
    const face = { detail, mesh, image, photo, method, noPixels, free: lambertTransfer(mesh.normals) };
    face.light = detail.light && Array.from({ length: 9 }, (_, i) => detail.light.slice(3 * i, 3 * i + 3));
    if (photo) face.cast = castOn(mesh, detail);
    if (photo) face.colors = pictureColors(mesh, photo, face.cast, 3);
    else if (image && !mesh.albedo) face.colors = pictureColors(mesh, image, mesh.uv, 2);
    else face.colors = mesh.colors ?? null;
    if (photo && face.light) face.errors = "photometric";
    else if (detail.distances_px.some((d) => d !== null)) face.errors = "landmark";
    this.face = face;
    this.photo.src = detail.photo ? jpeg(detail.photo) : "";
    if (!this.scene) return this.#withoutWebGl();
    const same = this.variants?.(row).some(([, other]) => other === this.shownRow); // then the camera stays
    this.scene.show(mesh, detail.anchors.filter((v) => v >= 0), same);
    this.shownRow = row;
    if (image) this.scene.setTexture(image);
    if (photo) this.scene.setPhotograph(photo, face.cast);
    this.scene.setTransfer(face.free);
    this.#drawMarks();
    this.#refresh();
    this.dialog.dataset.state = "ready";
    setTimeout(() => {
      // After the first picture: a fifth of a second of rays.
      if (this.face !== face) return;
      face.shadowed = selfShadowTransfer(mesh.verts, mesh.normals, mesh.faces);
      this.#refresh();
      this.dialog.dataset.state = "complete";
    }, 30);
  }

  #withoutMesh(detail) {
    this.scene?.clear();
    this.scene?.renderer.clear();
    this.photo.src = detail.photo ? jpeg(detail.photo) : "";
    this.face = null;
    this.bare = detail;
    this.dialog.dataset.state = "flat";
    this.dialog.dataset.overlay = "";
    this.message.textContent = "This row has landmarks but no mesh.";
    this.#drawMarks(detail);
  }

  #withoutWebGl() {
    this.message.textContent = "This browser shows no WebGL, so that the face stays flat; downloads work.";
    this.dialog.dataset.state = "flat";
    this.dialog.dataset.overlay = "";
    this.#drawMarks();
  }

  #scene() {
    if (this.scene || this.webglFailed) return;
    try {
      this.scene = new FaceScene(this.canvas);
      this.scene.onrender = () => this.ball.draw();
      new ResizeObserver(() => this.scene.resize()).observe(this.canvas);
      this.scene.resize();
    } catch {
      this.webglFailed = true;
    }
  }

  /** Puts the state on the screen. */
  #refresh() {
    const { face, state, scene } = this;
    if (!face || !scene) return;
    const reasons = Object.fromEntries(VIEWS.map((view) => [view.key, view.why?.(face) || ""]));
    for (const view of VIEWS) {
      const button = this.viewButtons[view.key];
      button.disabled = Boolean(reasons[view.key]);
      button.title = reasons[view.key];
    }
    const missing = new Map();
    for (const { key, label } of VIEWS) if (reasons[key]) missing.set(reasons[key], [...(missing.get(reasons[key]) ?? []), label]);
    this.whyNot.replaceChildren(...[...missing].map(([reason, labels]) => el("li", { text: `${labels.join(", ")}: ${reason}.` })));
    const view = reasons[state.view] ? "shape" : state.view;
    for (const [key, button] of Object.entries(this.viewButtons)) button.setAttribute("aria-pressed", key === view);
    const canOverlay = Boolean(face.detail.photo);
    const overlay = state.overlay && canOverlay;
    this.toggles.overlay.disabled = !canOverlay;
    this.toggles.overlay.title = canOverlay ? "" : "the photograph is not in this report";
    for (const key of ["wires", "dots", "overlay"]) this.toggles[key].setAttribute("aria-pressed", key === "overlay" ? overlay : state[key]);
    this.dialog.dataset.overlay = overlay ? "on" : "";
    this.canvas.style.opacity = overlay ? state.opacity : 1;
    this.opacityRow.hidden = !overlay;
    const lit = VIEWS.find(({ key }) => key === view).light;
    this.lightBox.hidden = !lit;
    const estimated = state.estimated && Boolean(face.light);
    this.estimatedButton.disabled = !face.light;
    this.estimatedButton.title = face.light ? "" : `method ${face.method} estimates no light`;
    this.estimatedButton.setAttribute("aria-pressed", estimated);
    this.lampButton.setAttribute("aria-pressed", !estimated);
    this.shadowBox.checked = state.shadow;
    // Where the photograph does not see the face it stands for itself in its own light.
    const own = view === "texture" && Boolean(face.light);
    const transfer = ((state.shadow || own) && face.shadowed) || face.free;
    if (transfer !== face.transfer) {
      face.transfer = transfer;
      scene.setTransfer(transfer);
    }
    this.light = estimated || own ? face.light : lampLight(this.lamp.direction, this.lamp.strength, this.lamp.ambient, [1, 0.97, 0.93]);
    scene.setLight(this.light);
    this.clay = estimated || own ? BRIGHTEST / Math.max(quantile(brightness(transfer, this.light), 0.95), 1e-3) : CLAY;
    scene.setVisible({ wires: state.wires, dots: state.dots && !overlay });
    this.marks.style.display = overlay && state.dots ? "" : "none";
    const { square, camera } = face.detail;
    if (overlay !== scene.overlay || overlay) scene.setOverlay(overlay, { ...camera, square });
    this.#look(view);
    this.ball.draw();
  }

  #look(view) {
    const { mesh, image, colors, light, free, shadowed } = this.face;
    const { scene } = this;
    let legend = null;
    if (view === "texture" && mesh.albedo && image && light) scene.setLook(LOOK.photographOnTexture);
    else if (view === "texture" && mesh.albedo) scene.setLook(LOOK.photograph, this.#modelled());
    else if (view === "texture" || (view === "albedo" && image)) scene.setLook(LOOK.texture);
    else if (view === "shape") scene.setLook(LOOK.lit, tinted(mesh, () => [this.clay, this.clay, this.clay]));
    else if (view === "lit") scene.setLook(image ? LOOK.litTexture : LOOK.lit, mesh.albedo.map(linear));
    else if (view === "albedo") scene.setLook(LOOK.flat, mesh.albedo);
    else if (view === "seen") {
      const strength = (v) => (mesh.visibility ? 0.45 + 0.55 * mesh.visibility[v] : 1);
      scene.setLook(LOOK.flat, tinted(mesh, (v) => sourceColor(mesh.source[v]).map((c) => c * (mesh.source[v] ? 1 : strength(v)))));
      legend = SOURCE_NAMES.map((text, i) => el("span", { class: "key" }, swatch(sourceColor(i)), text));
    } else if (view === "sigma") {
      legend = this.#heat(mesh.sigma, "mm", "standard deviation of each vertex");
    } else if (this.face.errors === "photometric") {
      const errors = photometricErrors(mesh, shadowed ?? free, light, colors);
      legend = this.#heat(errors.map((e) => 100 * e), "%", "albedo under the estimated light against the photograph");
    } else {
      legend = this.#heat(landmarkErrors(mesh, this.face.detail), "mm", "distance of fitted and detected landmarks, around them");
    }
    this.legend.replaceChildren(...(legend ?? []));
    this.legend.hidden = !legend;
  }

  /** Returns what albedo and estimated light make of each vertex, for where the photograph does not see it. */
  #modelled() {
    const { mesh, light, free, shadowed } = this.face;
    const transfer = shadowed ?? free;
    return tinted(mesh, (v) => {
      const shade = light ? shading(transfer.subarray(9 * v, 9 * v + 9), light) : [1, 1, 1];
      return shade.map((s, c) => encoded(Math.min(1, s * linear(mesh.albedo[3 * v + c]))));
    });
  }

  #heat(values, unit, meaning) {
    const top = Math.max(quantile(Array.from(values), 0.98), 1e-6);
    this.scene.setLook(LOOK.flat, tinted(this.face.mesh, (v) => heat(values[v] / top)));
    const bar = el("span", { class: "bar" });
    bar.style.background = heatGradient();
    return [el("span", { text: "0" }), bar, el("span", { text: `${shown(top, 2)} ${unit}` }), el("em", { text: meaning })];
  }

  /** Draws detected landmarks over the photograph, and lines to where the mesh has them. */
  #drawMarks(detail = this.face.detail) {
    const [x0, y0, side] = detail.square;
    const place = (x, y) => [(100 * (x - x0)) / side, (100 * (y - y0)) / side];
    const parts = [];
    for (let i = 0; i < 68; i++) {
      const [x, y] = place(detail.landmarks[2 * i], detail.landmarks[2 * i + 1]);
      const vertex = detail.anchors?.[i] ?? -1;
      if (vertex >= 0 && this.face) {
        const at = this.face.mesh.verts.subarray(3 * vertex, 3 * vertex + 3);
        const [px, py] = place(...project(detail.camera, ...at));
        parts.push(svg("line", { x1: x, y1: y, x2: px, y2: py }), svg("circle", { cx: px, cy: py, r: 0.55, class: "fitted" }));
      }
      parts.push(svg("circle", { cx: x, cy: y, r: 0.7 }));
    }
    this.marks.replaceChildren(...parts);
    this.marks.style.display = "";
  }

  #save(kind) {
    const { mesh, detail, colors } = this.face;
    const name = page.rows.face_id[this.row];
    const own = mesh.albedo ?? colors;
    if (kind === "obj") download(`${name}.obj`, obj(mesh, own), "model/obj");
    else {
      const tint = own && Float32Array.from(own, linear);
      download(`${name}.glb`, glb(mesh, name, detail.texture && bytes(detail.texture), tint, Boolean(mesh.albedo)), "model/gltf-binary");
    }
  }

  #change(changes) {
    Object.assign(this.state, changes);
    if (changes.view && this.state.overlay && this.face?.detail.photo) this.state.overlay = true;
    this.#refresh();
  }

  #build() {
    const toggle = (key, label, letter) =>
      el("button", { type: "button", "aria-pressed": "false", onclick: () => this.#change({ [key]: !this.state[key] }) }, label, el("kbd", { text: letter }));
    const slider = (label, value, oninput) => {
      const input = el("input", { type: "range", min: 0, max: 100, value: 100 * value, oninput: () => oninput(input.value / 100) });
      return el("label", { class: "slider" }, el("span", { text: label }), input);
    };
    this.canvas = el("canvas", { tabindex: 0, "aria-label": "The face in 3D: drag to turn, wheel or pinch to zoom" });
    this.photo = el("img", { class: "photo", alt: "" });
    this.marks = svg("svg", { class: "marks", viewBox: "0 0 100 100" });
    this.message = el("p", { class: "message", role: "status" });
    this.legend = el("div", { class: "legend", hidden: true });
    this.heading = el("h2");
    this.previous = el("button", { type: "button", class: "icon", "aria-label": "Previous face", title: "Previous face (K)", onclick: () => this.#go(-1) }, "‹");
    this.next = el("button", { type: "button", class: "icon", "aria-label": "Next face", title: "Next face (J)", onclick: () => this.#go(1) }, "›");
    const close = el("button", { type: "button", class: "icon", "aria-label": "Close", title: "Close (Esc)", onclick: () => this.close() }, "×");
    this.viewButtons = Object.fromEntries(VIEWS.map(({ key, label }, i) => [
      key,
      el("button", { type: "button", "data-view": key, onclick: () => this.#change({ view: key }) }, label, el("kbd", { text: String(i + 1) })),
    ]));
    this.toggles = { wires: toggle("wires", "Wireframe", "W"), dots: toggle("dots", "Landmarks", "L"), overlay: toggle("overlay", "Over the photograph", "O") };
    this.opacityRow = slider("Photograph – mesh", this.state.opacity, (opacity) => this.#change({ opacity }));
    this.ball = new LightBall({
      light: () => this.light,
      albedo: () => this.clay,
      lamp: () => (this.state.estimated && this.face?.light ? null : this.lamp.direction),
      toFace: (d, inverse) => this.scene?.toFace(d, inverse) ?? d,
      onmove: (direction) => {
        this.lamp.direction = direction;
        this.#change({ estimated: false });
      },
    });
    this.lampButton = el("button", { type: "button", onclick: () => this.#change({ estimated: false }) }, "Lamp");
    this.estimatedButton = el("button", { type: "button", onclick: () => this.#change({ estimated: true }) }, "Estimated light");
    this.shadowBox = el("input", { type: "checkbox", checked: true, onchange: () => this.#change({ shadow: this.shadowBox.checked }) });
    const lampSlider = (label, key, scale) => slider(label, this.lamp[key] / scale, (value) => {
      this.lamp[key] = value * scale;
      this.#change({ estimated: false });
    });
    this.lightBox = el("section", { class: "light" }, el("h3", { text: "Light" }),
      el("div", { class: "buttons" }, this.lampButton, this.estimatedButton),
      el("div", { class: "lamp" }, this.ball.canvas, el("div", {},
        lampSlider("Strength", "strength", 1.5), lampSlider("From all sides", "ambient", 0.8),
        el("label", { class: "check" }, this.shadowBox, "Self-shadow", el("kbd", { text: "S" })))),
      el("p", { class: "hint", text: "Drag the ball to move the lamp; beyond its middle ring it shines from behind." }));
    this.whyNot = el("ul", { class: "why-not" });
    this.factList = el("dl");
    this.files = el("div", { class: "links" });
    this.filesRow = el("div", {}, el("p", { class: "hint", text: "Files of the run, in full resolution:" }), this.files);
    const keys = el("details", {}, el("summary", { text: "Keys" }), el("dl", {}, ...KEYS.flatMap(([key, text]) => [el("dt", {}, el("kbd", { text: key })), el("dd", { text })])));
    const stage = el("div", { class: "stage" }, this.photo, this.canvas, this.marks, this.legend, this.message);
    this.variantButtons = el("div", { class: "buttons" });
    this.variantBox = el("section", { class: "variants", hidden: true }, el("h3", { text: "Run" }), this.variantButtons);
    const panel = el("div", { class: "panel" }, this.variantBox,
      el("section", {}, el("h3", { text: "View" }), el("div", { class: "buttons" }, ...Object.values(this.viewButtons)), this.whyNot,
        el("div", { class: "buttons" }, ...Object.values(this.toggles)), this.opacityRow),
      this.lightBox,
      el("section", { class: "save" }, el("h3", { text: "Download" }),
        el("div", { class: "buttons" },
          el("button", { type: "button", "data-save": "glb", onclick: () => this.#save("glb") }, "GLB"),
          el("button", { type: "button", "data-save": "obj", onclick: () => this.#save("obj") }, "OBJ")),
        el("p", { class: "hint", text: "Made in this page: GLB in metres, OBJ in millimetres." }), this.filesRow),
      el("section", {}, el("h3", { text: "Figures" }), this.factList),
      keys);
    this.dialog = el("dialog", { class: "viewer", onkeydown: (event) => this.#key(event), onclose: () => {
      this.row = null;
      this.onclose?.();
    } },
      el("header", {}, this.previous, this.next, this.heading, close), stage, panel);
    document.body.append(this.dialog);
  }

  #go(by) {
    const row = this.step(this.row, by);
    if (row !== null) this.show(row);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.type === "range") return;
    const turns = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, 10], ArrowDown: [0, -10] };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const view = VIEWS[Number(key) - 1];
    if (turns[key] && this.scene && !this.state.overlay) this.scene.turn(...turns[key]);
    else if (view && !this.viewButtons[view.key].disabled) this.#change({ view: view.key });
    else if (key === "+" || key === "=") this.scene?.zoom(0.88);
    else if (key === "-") this.scene?.zoom(1.14);
    else if (key === "r") this.scene?.reset();
    else if (key === "w") this.#change({ wires: !this.state.wires });
    else if (key === "l") this.#change({ dots: !this.state.dots });
    else if (key === "o") this.#change({ overlay: !this.state.overlay });
    else if (key === "s") this.#change({ shadow: !this.state.shadow });
    else if (key === "j") this.#go(1);
    else if ((key === "a" || key === "b") && !this.variantBox.hidden) this.variantButtons.children["ab".indexOf(key)].click();
    else if (key === "k") this.#go(-1);
    else return;
    event.preventDefault();
  }
}

const swatch = (rgb) => {
  const node = el("i", { class: "swatch" });
  node.style.background = `rgb(${rgb.map((v) => Math.round(255 * v)).join(" ")})`;
  return node;
};

async function loaded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

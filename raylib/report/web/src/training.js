// The page of a training, or of several side by side.

import { chart, color } from "./charts.js";
import { jpeg, pack, page } from "./data.js";
import { el } from "./dom.js";
import { lambertTransfer, lampLight } from "./light.js";
import { tinted } from "./looks.js";
import { linear, unpackMesh, unpackTopology } from "./mesh.js";
import { FaceScene, LOOK } from "./scene.js";
import { shell } from "./shell.js";
import { details, differences } from "./tabs.js";

export function training() {
  const { runs } = page;
  const any = (kind) => runs.some((run) => run.files[kind].length);
  const tabs = [
    { key: "curves", label: "Curves", make: curves },
    any("epochs") && { key: "strips", label: "Over the epochs", make: strips },
    any("pictures") && { key: "pictures", label: "Pictures", make: pictures },
    any("meshes") && { key: "meshes", label: "Meshes", make: meshes },
    { key: "run", label: runs.length > 1 ? "Runs" : "Run", make: () => el("section", { class: "run" }, runs.length > 1 && differences(runs), ...runs.flatMap((run) => [runs.length > 1 && el("h2", { text: run.name }), ...details(run.run)]).filter(Boolean)) },
  ];
  const jobs = [...new Set(runs.map(({ run }) => run.job))].join(", ");
  shell({ title: page.title, subtitle: `${runs.map(({ name }) => name).join(" · ")} · ${jobs} · ${runs.map(({ epochs }) => epochs).join(" and ")} epochs on record`, tabs: tabs.filter(Boolean) });
}

function curves() {
  const several = page.runs.length > 1;
  return el("section", { class: "figures wide" }, ...page.charts.map(({ title, lines }) => {
    const seen = new Map();
    return chart(title, lines.map(({ run, name, x, y }) => {
      if (!seen.has(name)) seen.set(name, seen.size);
      return { x, y, name: several ? `${page.runs[run].name} ${name}`.trim() : name, color: color(several ? run : seen.get(name)), dashed: several ? name === "training" : false };
    }));
  }));
}

/** Side by side, a column a run. */
const columns = (make) => el("div", { class: "columns" }, ...page.runs.map((run, n) => el("div", {}, page.runs.length > 1 && el("h2", { text: run.name }), make(run, n))));

function strips() {
  return el("section", {}, columns((run) => {
    const { epochs, original } = run.files;
    if (!epochs.length) return el("p", { class: "empty", text: "This run kept no pictures over its epochs." });
    const image = el("img", { class: "strip", alt: "The same faces at the chosen epoch" });
    const label = el("output");
    const slider = el("input", { type: "range", min: 0, max: epochs.length - 1, value: epochs.length - 1, "aria-label": "Epoch", oninput: () => show(Number(slider.value)) });
    const show = async (at) => {
      label.textContent = `epoch ${epochs[at].epoch}`;
      const content = await pack(epochs[at].pack);
      if (Number(slider.value) === at) image.src = jpeg(content);
    };
    show(epochs.length - 1);
    const truth = original && el("img", { class: "truth", alt: "What these examples are" });
    if (truth) pack(original).then((content) => (truth.src = jpeg(content)), () => {});
    return el("div", {}, truth, el("div", { class: "epochs" }, slider, label), image);
  }));
}

function pictures() {
  return el("section", {}, columns((run) => el("div", { class: "gallery" }, ...run.files.pictures.map(({ name, pack: from }) => {
    const image = el("img", { alt: name });
    pack(from).then((content) => (image.src = jpeg(content)), () => {});
    return el("figure", { class: "card" }, image, el("figcaption", { text: name.replace(/\.png$/, "").replaceAll("_", " ") }));
  }))));
}

function meshes() {
  const open = meshDialog();
  return el("section", {}, columns((run) => el("div", { class: "buttons" }, ...run.files.meshes.map(({ name, pack: from }) =>
    el("button", { type: "button", "data-mesh": name, onclick: () => open(`${run.name}: ${name}`, from) }, name.replaceAll("_", " "))))));
}

/** Returns a function that opens a mesh of any topology in 3D. */
function meshDialog() {
  const canvas = el("canvas", { tabindex: 0 });
  const heading = el("h2");
  const looks = el("div", { class: "buttons" });
  const dialog = el("dialog", { class: "viewer plain" }, el("header", {}, heading, looks, el("button", { type: "button", class: "icon", "aria-label": "Close", onclick: () => dialog.close() }, "×")), el("div", { class: "stage" }, canvas));
  document.body.append(dialog);
  let scene = null;
  return async (title, from) => {
    dialog.showModal();
    heading.textContent = title;
    dialog.dataset.state = "loading";
    if (!scene) {
      scene = new FaceScene(canvas);
      new ResizeObserver(() => scene.resize()).observe(canvas);
      scene.resize();
    }
    const packed = await pack(from);
    const mesh = await unpackMesh({ mesh: packed.mesh }, unpackTopology(packed.topology));
    scene.show(mesh, []);
    scene.setTransfer(lambertTransfer(mesh.normals));
    scene.setLight(lampLight([0.45, 0.45, 0.77], 0.85, 0.25, [1, 1, 1]));
    let wires = false;
    const apply = (look) => {
      if (look === "colors") scene.setLook(LOOK.flat, mesh.colors);
      else scene.setLook(LOOK.lit, look === "lit" ? mesh.colors.map(linear) : tinted(mesh, () => [0.72, 0.72, 0.72]));
      scene.setVisible({ wires, dots: false });
      for (const button of looks.children) button.setAttribute("aria-pressed", String(button.dataset.look === look || (button.dataset.look === "wires" && wires)));
    };
    let look = mesh.colors ? "colors" : "shape";
    const names = { ...(mesh.colors && { colors: "Colors", lit: "Lit" }), shape: "Shape", wires: "Wireframe" };
    looks.replaceChildren(...Object.entries(names).map(([key, label]) => el("button", { type: "button", "data-look": key, onclick: () => {
      if (key === "wires") wires = !wires;
      else look = key;
      apply(look);
    } }, label)));
    apply(look);
    dialog.dataset.state = "complete";
  };
}

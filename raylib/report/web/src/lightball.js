// A matte ball in the light of the viewer, with a handle where the lamp is.

import { el } from "./dom.js";
import { freeTransfer, shading } from "./light.js";
import { encoded } from "./mesh.js";

const SIDE = 104; // pixels of the picture
const FRONT = 0.72; // share of the ball's radius at which the lamp stands at right angles to the view

export class LightBall {
  /** light() returns the coefficients, albedo() the ball's share of reflected light, lamp() the lamp's direction in face space or null, toFace turns directions. */
  constructor({ light, albedo, lamp, toFace, onmove }) {
    Object.assign(this, { light, albedo, lamp, toFace, onmove });
    this.canvas = el("canvas", { class: "ball", width: SIDE, height: SIDE, tabindex: 0, role: "slider", "aria-label": "Direction of the lamp", "aria-valuetext": "drag or use the arrow keys" });
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.#move(event);
    });
    this.canvas.addEventListener("pointermove", (event) => event.buttons && this.#move(event));
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  draw() {
    const context = this.canvas.getContext("2d");
    const light = this.light();
    if (!light || !this.canvas.offsetParent) return;
    const picture = context.createImageData(SIDE, SIDE);
    const radius = SIDE / 2 - 2;
    const [right, up, near] = [[1, 0, 0], [0, 1, 0], [0, 0, 1]].map((axis) => this.toFace(axis));
    for (let row = 0; row < SIDE; row++) {
      for (let column = 0; column < SIDE; column++) {
        const x = (column + 0.5 - SIDE / 2) / radius, y = (SIDE / 2 - row - 0.5) / radius;
        const rest = 1 - x * x - y * y;
        if (rest < 0) continue;
        const z = Math.sqrt(rest);
        const normal = [0, 1, 2].map((i) => x * right[i] + y * up[i] + z * near[i]);
        const rgb = shading(freeTransfer(...normal), light).map((v) => 255 * encoded(Math.min(1, this.albedo() * v)));
        picture.data.set([...rgb, 255 * Math.min(1, (1 - Math.hypot(x, y)) * radius)], 4 * (row * SIDE + column));
      }
    }
    context.clearRect(0, 0, SIDE, SIDE);
    context.putImageData(picture, 0, 0);
    context.strokeStyle = "rgb(128 128 128 / 0.5)";
    context.beginPath();
    context.arc(SIDE / 2, SIDE / 2, FRONT * radius, 0, 7);
    context.stroke();
    const lamp = this.lamp();
    if (!lamp) return;
    const [x, y] = toDisc(this.toFace(lamp, true));
    context.beginPath();
    context.arc(SIDE / 2 + x * radius, SIDE / 2 - y * radius, 5.5, 0, 7);
    context.fillStyle = "#ffd54a";
    context.fill();
    context.lineWidth = 1.5;
    context.strokeStyle = "#3a2c00";
    context.stroke();
  }

  #move(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = (2 * (event.clientX - box.left)) / box.width - 1;
    const y = 1 - (2 * (event.clientY - box.top)) / box.height;
    this.onmove(this.toFace(fromDisc(x, y)));
  }

  #key(event) {
    const step = { ArrowLeft: [-0.08, 0], ArrowRight: [0.08, 0], ArrowUp: [0, 0.08], ArrowDown: [0, -0.08] }[event.key];
    const lamp = this.lamp();
    if (!step || !lamp) return;
    event.preventDefault();
    event.stopPropagation();
    const [x, y] = toDisc(this.toFace(lamp, true));
    this.onmove(this.toFace(fromDisc(x + step[0], y + step[1])));
  }
}

/** Returns the direction (x right, y up, z to the viewer) of a point of the disc; its rim is behind. */
function fromDisc(x, y) {
  const radius = Math.min(1, Math.hypot(x, y)) || 1e-6;
  const angle = Math.min((radius / FRONT) * (Math.PI / 2), 2.4);
  const along = Math.atan2(y, x);
  return [Math.sin(angle) * Math.cos(along), Math.sin(angle) * Math.sin(along), Math.cos(angle)];
}

function toDisc([x, y, z]) {
  const radius = Math.min(1, (Math.acos(Math.min(1, Math.max(-1, z))) / (Math.PI / 2)) * FRONT);
  const along = Math.atan2(y, x);
  return [radius * Math.cos(along), radius * Math.sin(along)];
}

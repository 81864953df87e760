// A scale bar that is right at every zoom, and distances that a reader measures.

import { h, length, round, s } from "../base/dom.js";

const MOST_PX = 160;

/** @param {import("./scene.js").Scene} scene */
export function scaleBar(scene) {
  const text = h("span", { class: "length" });
  const bar = h("div", { class: "scale-bar" }, text, h("span", { class: "line" }));
  scene.painters.push(({ scale }) => {
    const um = round((MOST_PX * scene.doc.mpp) / scale);
    bar.style.width = `${(um * scale) / scene.doc.mpp}px`;
    text.textContent = length(um);
    bar.dataset.um = String(um);
  });
  return bar;
}

export class Measure {
  /** @param {import("./scene.js").Scene} scene @param {(on: boolean) => void} turned */
  constructor(scene, turned) {
    this.scene = scene;
    this.turned = turned;
    this.on = false;
    /** Ends of finished lines. @type {[import("./scene.js").XY, import("./scene.js").XY][]} */
    this.lines = [];
    /** @type {import("./scene.js").XY | null} */
    this.from = null;
    /** @type {import("./scene.js").XY | null} */
    this.to = null;
    this.group = s("g", { class: "measures" });
    this.texts = s("g", { class: "measure-texts" });
    scene.shapes.append(this.group);
    scene.drawing.append(this.texts);
    scene.painters.push(() => this.paint());
    scene.viewer.addHandler("canvas-click", (/** @type {any} */ event) => this.click(event));
    scene.host.addEventListener("pointermove", (event) => this.follow(event));
  }

  /** @param {boolean} on */
  turn(on) {
    this.on = on;
    this.from = this.to = null;
    this.scene.host.classList.toggle("measuring", on);
    this.turned(on);
    this.scene.redraw();
  }

  clear() {
    this.lines = [];
    this.from = this.to = null;
    this.scene.redraw();
  }

  /** @param {any} event */
  click(event) {
    if (!this.on || !event.quick) return;
    event.preventDefaultAction = true;
    const place = this.scene.toSlide(event.position);
    if (this.from) this.lines.push([this.from, place]);
    this.from = this.from ? null : place;
    this.to = this.from;
    this.scene.redraw();
  }

  /** @param {PointerEvent} event */
  follow(event) {
    if (!this.from) return;
    const box = this.scene.host.getBoundingClientRect();
    this.to = this.scene.toSlide({ x: event.clientX - box.left, y: event.clientY - box.top });
    this.scene.redraw();
  }

  paint() {
    const { x, y, scale } = this.scene.frame;
    const lines = this.from && this.to ? [...this.lines, [this.from, this.to]] : this.lines;
    this.group.replaceChildren(...lines.map(([[x1, y1], [x2, y2]]) => s("line", { x1, y1, x2, y2 })));
    this.texts.replaceChildren(...lines.map(([from, to]) => {
      const um = Math.hypot(to[0] - from[0], to[1] - from[1]) * this.scene.doc.mpp;
      return s("text", { x: x + to[0] * scale + 8, y: y + to[1] * scale - 8 }, length(um));
    }));
  }
}

// The tiles that weigh most and least, cut out of the slide; a press goes to the place.

import { digits, h, length, round, section } from "../base/dom.js";
import { valueText } from "./heat_panel.js";

const SIDE = 112;

export class Gallery {
  /** @param {import("./heat.js").Heat} heat @param {(index: number) => void} jump */
  constructor(heat, jump) {
    this.heat = heat;
    this.jump = jump;
    const { doc } = heat.scene;
    const { kind, name: layer } = doc.layers[0];
    const [most, least] = ["factor", "rank", "absolute"].includes(kind) ? ["Most attention", "Least attention"] : [`Highest: ${layer}`, `Lowest: ${layer}`];
    /** @type {HTMLButtonElement[]} */
    this.buttons = [];
    this.order = [...doc.top, ...doc.bottom];
    heat.marks = doc.top.map((index, rank) => ({ index, text: String(rank + 1) }));
    const group = (/** @type {string} */ name, /** @type {number[]} */ indices, /** @type {number} */ from) =>
      indices.length > 0 && [h("h3", {}, name), h("div", { class: "tiles" }, indices.map((index, at) => this.button(index, at + 1, from)))];
    this.element = section(
      "Tiles",
      true,
      group(most, doc.top, 0),
      group(least, doc.bottom, doc.top.length),
    );
  }

  /** @param {number} index @param {number} rank from 1 @param {number} from */
  button(index, rank, from) {
    const { scene } = this.heat;
    const layer = this.heat.unpack(scene.doc.layers[0]);
    const said = valueText(layer.doc, layer.values[index]);
    const picture = h("canvas", { width: SIDE * 2, height: SIDE * 2, "aria-hidden": "true" });
    const um = scene.doc.store_tile_px * scene.doc.mpp;
    const bar = h("span", { class: "scale", "aria-hidden": "true" }, length(round(um * 0.55)));
    bar.style.width = `${(100 * round(um * 0.55)) / um}%`;
    const made = h(
      "button",
      { type: "button", class: "tile", "aria-label": `Go to tile ${rank}: ${said}`, onclick: () => this.go(from + rank - 1) },
      h("span", { class: "picture" }, picture, bar, h("span", { class: "rank", "aria-hidden": "true" }, rank)),
      h("span", { class: "value", "aria-hidden": "true" }, layer.doc.kind === "factor" ? `${digits(layer.values[index])}×` : said),
    );
    this.buttons.push(made);
    new IntersectionObserver((seen, watch) => {
      if (!seen.some((own) => own.isIntersecting)) return;
      watch.disconnect();
      this.cut(picture, index);
    }).observe(made);
    return made;
  }

  /** Draw a tile from the files that hold it. @param {HTMLCanvasElement} canvas @param {number} index */
  cut(canvas, index) {
    const { scene } = this.heat;
    const { tile_px: tile, store_tile_px: side } = scene.doc;
    const [left, top] = this.heat.corner(index);
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const scale = canvas.width / side;
    pen.fillStyle = scene.glass;
    pen.fillRect(0, 0, canvas.width, canvas.height);
    for (let row = Math.floor(top / tile); row * tile < top + side; row++) {
      for (let column = Math.floor(left / tile); column * tile < left + side; column++) {
        if (!scene.isThere(row, column)) continue;
        const picture = new Image();
        picture.onload = () => pen.drawImage(picture, (column * tile - left) * scale, (row * tile - top) * scale, tile * scale, tile * scale);
        picture.src = scene.tileAddress(0, row, column);
      }
    }
  }

  /** Go to one of the tiles, counted over top and bottom. @param {number} at */
  go(at) {
    if (!this.order.length) return;
    const place = (at + this.order.length) % this.order.length;
    this.current = place;
    this.heat.marked = this.order[place];
    const first = this.heat.scene.doc.top.length;
    if (place >= first) this.heat.marks = this.heat.marks.filter((own) => !own.text.startsWith("−"));
    if (place >= first) this.heat.marks.push({ index: this.order[place], text: `−${place - first + 1}` });
    for (const [own, button] of this.buttons.entries()) button.setAttribute("aria-current", own === place ? "true" : "false");
    this.jump(this.order[place]);
  }
}

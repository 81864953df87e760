// The heat map: a layer's values in colours over the slide, one px a tile, drawn anew only when a choice changes.

import { colours, scaleOf } from "../base/colours.js";
import { floats, integers } from "../base/documents.js";
import { pictureOf } from "./scene.js";

/** @typedef {import("../base/documents.js").LayerDoc} LayerDoc */
/** @typedef {{key: string, scale: import("../base/colours.js").ScaleName, colours: string, opacity: number, below: number,
 *   shown: boolean}} HeatChoice
 * `below`: places on the colour bar that do not show (of a layer with a centre: the distance from it, doubled). */

/** Numbers on smaller tiles would cover each other. */
const LEAST_NUMBERED_PX = 26;

export class Heat {
  /** @param {import("./scene.js").Scene} scene @param {HeatChoice} choice */
  constructor(scene, choice) {
    this.scene = scene;
    this.choice = choice;
    /** Row, column, row, column, ... of the listed tiles. */
    this.places = integers(scene.doc.places);
    /** @type {Map<string, Float32Array>} */
    this.unpacked = new Map();
    /** The map as it was last made, and what it was made of. */
    this.cells = pictureOf(new ImageData(1, 1));
    this.madeOf = "";
    /** @type {{index: number, text: string}[]} */
    this.marks = [];
    this.marked = -1;
    const { store_tile_px: side, height, width } = scene.doc;
    this.rows = Math.ceil(height / side);
    this.columns = Math.ceil(width / side);
    /** Which listed tile lies in a cell, or -1. */
    this.tileIn = new Int32Array(this.rows * this.columns).fill(-1);
    for (let index = 0; index < scene.doc.n; index++) {
      this.tileIn[this.places[2 * index] * this.columns + this.places[2 * index + 1]] = index;
    }
    scene.painters.push(() => this.paint());
  }

  /** The layer chosen, unpacked; undefined where the slide has none. */
  layer() {
    const doc = this.scene.doc.layers.find((own) => own.key === this.choice.key) ?? this.scene.doc.layers[0];
    return doc && this.unpack(doc);
  }

  /** @param {LayerDoc} doc */
  unpack(doc) {
    const values = this.unpacked.get(doc.key) ?? floats(doc.values);
    this.unpacked.set(doc.key, values);
    return { doc, values, low: doc.low, high: doc.high, centre: doc.centre };
  }

  /** @param {Partial<HeatChoice>} change */
  choose(change) {
    Object.assign(this.choice, change);
    this.scene.redraw();
  }

  /** The map in use: one for layers around a centre, else the reader's. @param {number | null} centre */
  table(centre) {
    return colours(centre === null ? this.choice.colours : "diverging");
  }

  /** Whether a place on the colour bar shows. @param {number} place @param {number | null} centre */
  isShown(place, centre) {
    return strength(place, centre) >= this.choice.below;
  }

  /** What says little covers little, so that the tissue keeps its own colours there; at full opacity all covers.
   * @param {number} place @param {number | null} centre @returns {number} 0 to 1 */
  cover(place, centre) {
    return this.choice.opacity ** (3 - 2 * strength(place, centre));
  }

  makeCells() {
    const layer = this.layer();
    const cells = new ImageData(this.columns, this.rows);
    if (layer) {
      const table = this.table(layer.centre);
      const scale = scaleOf(layer, this.choice.scale);
      for (let index = 0; index < this.scene.doc.n; index++) {
        const place = scale.place(layer.values[index]);
        if (!(place >= 0) || !this.isShown(place, layer.centre)) continue;
        const colour = Math.round(place * 255) * 3;
        const cell = this.places[2 * index] * this.columns + this.places[2 * index + 1];
        const cover = Math.round(255 * this.cover(place, layer.centre));
        cells.data.set([table[colour], table[colour + 1], table[colour + 2], cover], cell * 4);
      }
    }
    return pictureOf(cells);
  }

  paint() {
    const { scene, choice } = this;
    const pen = scene.pen(scene.over);
    if (choice.shown && scene.doc.layers.length) {
      const of = [choice.key, choice.scale, choice.colours, choice.below, choice.opacity].join();
      if (of !== this.madeOf) this.cells = this.makeCells();
      this.madeOf = of;
      scene.drawCells(pen, this.cells, scene.doc.store_tile_px);
    }
    this.paintMarks(pen);
  }

  /** Numbered frames around the gallery's tiles. @param {CanvasRenderingContext2D} pen */
  paintMarks(pen) {
    const { scale } = this.scene.frame;
    const side = this.scene.doc.store_tile_px;
    pen.font = `600 ${12 / scale}px system-ui, sans-serif`;
    pen.textBaseline = "bottom";
    for (const { index, text } of this.marks) {
      if (!this.choice.shown && index !== this.marked) continue;
      const [x, y] = this.corner(index);
      for (const [colour, wide] of /** @type {[string, number][]} */ ([["#000", 4], [index === this.marked ? "#ffd400" : "#fff", 2]])) {
        pen.strokeStyle = colour;
        pen.lineWidth = wide / scale;
        pen.strokeRect(x, y, side, side);
      }
      if (side * scale < LEAST_NUMBERED_PX && index !== this.marked) continue;
      const wide = pen.measureText(text).width;
      pen.fillStyle = index === this.marked ? "#ffd400" : "#fff";
      pen.fillRect(x - 1 / scale, y - 16 / scale, wide + 8 / scale, 15 / scale);
      pen.fillStyle = "#000";
      pen.fillText(text, x + 3 / scale, y - 1.5 / scale);
    }
  }

  /** A listed tile's corner, (x, y) in px of displayed level 0. @param {number} index @returns {[number, number]} */
  corner(index) {
    const side = this.scene.doc.store_tile_px;
    return [this.places[2 * index + 1] * side, this.places[2 * index] * side];
  }

  /** The listed tile at a place, or -1. @param {[number, number]} place */
  tileAt([x, y]) {
    const side = this.scene.doc.store_tile_px;
    const [row, column] = [Math.floor(y / side), Math.floor(x / side)];
    return row >= 0 && column >= 0 && row < this.rows && column < this.columns ? this.tileIn[row * this.columns + column] : -1;
  }
}

/** How far a place on the colour bar is from what says nothing. @param {number} place @param {number | null} centre */
function strength(place, centre) {
  return centre === null ? place : Math.abs(place - 0.5) * 2;
}

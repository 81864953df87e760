// All that is drawn on a slide, as one canvas over it: files may hold 100,000 cells.

import { boundsOf, partsOf, pathOf } from "./shapes.js";

/** @typedef {import("./shapes.js").XY} XY */
/** @typedef {import("./shapes.js").Feature} Feature */
/** @typedef {import("./shapes.js").Geometry} Geometry */

const PLAIN = [220, 40, 40];
/** Shapes smaller than this on the screen are not painted. */
const LEAST_PX = 0.7;

export class Painted {
  /** @param {import("./draw.js").Drawing} drawing */
  constructor(drawing) {
    this.drawing = drawing;
    this.scene = drawing.scene;
    /** @type {WeakMap<Geometry, {path: Path2D, box: [number, number, number, number]}>} */
    this.known = new WeakMap();
    this.canvas = this.scene.layer("drawn");
    this.scene.drawing.before(this.canvas);
    this.scene.painters.push(() => this.paint());
  }

  /** @param {Feature} feature */
  drawn({ geometry }) {
    const known = this.known.get(geometry) ?? { path: pathOf(geometry), box: boundsOf(geometry) };
    this.known.set(geometry, known);
    return known;
  }

  paint() {
    const { frame, doc } = this.scene;
    const k = this.drawing.perPx();
    const pen = this.scene.pen(this.canvas);
    pen.scale(1 / doc.l0_per_px, 1 / doc.l0_per_px);
    const [left, top] = this.drawing.place({ x: 0, y: 0 });
    const [right, bottom] = this.drawing.place({ x: frame.width, y: frame.height });
    pen.lineJoin = pen.lineCap = "round";
    for (const feature of this.drawing.annotations.features) {
      const { path, box } = this.drawn(feature);
      if (box[2] < left || box[0] > right || box[3] < top || box[1] > bottom) continue;
      const isPoint = partsOf(feature.geometry).points.length > 0;
      if (!isPoint && Math.max(box[2] - box[0], box[3] - box[1]) < LEAST_PX * k) continue;
      this.paintFeature(pen, feature, path, k);
    }
    this.paintCorner(pen, k);
    this.paintDraft(pen, k);
  }

  /** @param {CanvasRenderingContext2D} pen @param {Feature} feature @param {Path2D} path @param {number} k */
  paintFeature(pen, feature, path, k) {
    const [red, green, blue] = colourOf(feature);
    const isChosen = feature === this.drawing.selected;
    pen.fillStyle = `rgba(${red}, ${green}, ${blue}, ${isChosen ? 0.25 : 0.12})`;
    if (/Polygon$/.test(feature.geometry.type)) pen.fill(path, "evenodd");
    for (const [colour, wide] of /** @type {[string, number][]} */ ([["#ffffffcc", isChosen ? 6 : 4], [`rgb(${red}, ${green}, ${blue})`, isChosen ? 3.5 : 2]])) {
      pen.strokeStyle = colour;
      pen.lineWidth = wide * k;
      pen.stroke(path);
      pen.fillStyle = colour;
      for (const [x, y] of partsOf(feature.geometry).points) {
        pen.beginPath();
        pen.arc(x, y, (wide + 3) * k, 0, 7);
        pen.fill();
      }
    }
    if (isChosen && this.drawing.tool === "move" && this.drawing.isOpen(feature) && /Polygon$/.test(feature.geometry.type)) this.paintCorners(pen, feature, k);
  }

  /** Corners that can be dragged, where they are far enough apart. @param {CanvasRenderingContext2D} pen @param {Feature} feature @param {number} k */
  paintCorners(pen, feature, k) {
    pen.fillStyle = "#fff";
    pen.strokeStyle = "#000";
    pen.lineWidth = k;
    for (const ring of partsOf(feature.geometry).rings) {
      if (ring.length > 400) continue;
      for (const [x, y] of ring.slice(1)) {
        pen.fillRect(x - 3 * k, y - 3 * k, 6 * k, 6 * k);
        pen.strokeRect(x - 3 * k, y - 3 * k, 6 * k, 6 * k);
      }
    }
  }

  /** The shape with its dragged corner. @param {CanvasRenderingContext2D} pen @param {number} k */
  paintCorner(pen, k) {
    if (!this.drawing.corner) return;
    pen.strokeStyle = "#ffd400";
    pen.lineWidth = 2 * k;
    pen.stroke(pathOf({ type: "MultiPolygon", coordinates: this.drawing.corner.rings }));
  }

  /** @param {CanvasRenderingContext2D} pen @param {number} k */
  paintDraft(pen, k) {
    const { tool, draft, pointer } = this.drawing;
    const radius = this.drawing.brushPx * k;
    if (tool === "brush" && pointer) {
      pen.beginPath();
      pen.arc(...pointer, radius, 0, 7);
      pen.lineWidth = 1.5 * k;
      pen.strokeStyle = "#000";
      pen.stroke();
    }
    if (!draft.length) return;
    const [[x1, y1], [x2, y2]] = draft.length > 1 ? draft : [draft[0], draft[0]];
    /** @type {XY[]} */
    const line = tool === "rectangle" ? [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]] : tool === "polygon" && pointer ? [...draft, pointer] : draft;
    pen.beginPath();
    line.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.strokeStyle = tool === "brush" ? "#ffd40088" : "#000";
    pen.lineWidth = tool === "brush" ? 2 * radius : 4 * k;
    pen.stroke();
    if (tool === "brush") return;
    pen.strokeStyle = "#ffd400";
    pen.lineWidth = 2 * k;
    pen.stroke();
  }
}

/** A feature's colour as QuPath would choose it: its own, else its class's. @param {Feature} feature @returns {number[]} */
export function colourOf({ properties }) {
  return properties?.color ?? properties?.classification?.color ?? PLAIN;
}

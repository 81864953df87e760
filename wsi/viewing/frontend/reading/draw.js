// Drawing on the slide: tools, what is being drawn, and all that has been.

import { brushed } from "./brush.js";
import { boundsOf, closedRing, distanceTo, isHit, partsOf, pathOf, simplified } from "./shapes.js";

/** @typedef {import("./shapes.js").XY} XY */
/** @typedef {import("./shapes.js").Feature} Feature */
/** @typedef {import("./shapes.js").Geometry} Geometry */
/** @typedef {"move" | "polygon" | "rectangle" | "brush" | "point" | "line"} Tool */

const REACH_PX = 8;
const PLAIN = [220, 40, 40];
/** Shapes smaller than this on the screen are not drawn: files may hold 100,000 cells. */
const LEAST_PX = 0.7;

export class Drawing {
  /**
   * @param {import("../slide/scene.js").Scene} scene
   * @param {import("./annotations.js").Annotations} annotations
   * @param {(geometry: Geometry) => Feature} make a new feature of the class chosen
   * @param {() => void} changed
   */
  constructor(scene, annotations, make, changed) {
    this.scene = scene;
    this.annotations = annotations;
    this.make = make;
    this.changed = changed;
    /** @type {Tool} */
    this.tool = "move";
    this.brushPx = 24;
    /** @type {Feature | null} */
    this.selected = null;
    /** Places of what is being drawn, level-0 px of the slide. @type {XY[]} */
    this.draft = [];
    /** Whether a press made the draft's first place, and no click before it. */
    this.isDrag = false;
    this.erases = false;
    /** @type {XY | null} */
    this.pointer = null;
    /** Ring and place of the corner that is dragged. @type {{rings: XY[][][], at: [number, number, number]} | null} */
    this.corner = null;
    /** @type {WeakMap<Geometry, {path: Path2D, box: [number, number, number, number]}>} */
    this.known = new WeakMap();
    this.canvas = scene.layer("drawn");
    scene.drawing.before(this.canvas);
    scene.painters.push(() => this.paint());
    const { viewer } = scene;
    const on = (/** @type {string} */ name, /** @type {(place: XY, event: any) => boolean} */ act) =>
      viewer.addHandler(name, (/** @type {any} */ event) => { if (act(this.place(event.position), event)) event.preventDefaultAction = true; });
    on("canvas-press", (place, event) => this.press(place, event));
    on("canvas-drag", (place) => this.drag(place));
    on("canvas-drag-end", () => this.tool !== "move");
    on("canvas-release", () => this.release());
    on("canvas-click", (place, event) => this.click(place, event));
    on("canvas-double-click", () => this.finish() || this.tool !== "move");
    scene.host.addEventListener("pointermove", (event) => this.follow(event));
  }

  /** A place in the viewer as level-0 px of the slide. @param {{x: number, y: number}} position @returns {XY} */
  place(position) {
    const [x, y] = this.scene.toSlide(position);
    return [x * this.scene.doc.l0_per_px, y * this.scene.doc.l0_per_px];
  }

  /** Level-0 px of the slide per px of the screen. */
  perPx() {
    return this.scene.doc.l0_per_px / this.scene.frame.scale;
  }

  /** @param {Tool} tool */
  use(tool) {
    this.tool = tool;
    this.draft = [];
    this.scene.host.classList.toggle("drawing", tool !== "move");
    this.changed();
    this.scene.redraw();
  }

  /** @param {Feature | null} feature */
  select(feature) {
    this.selected = feature;
    this.changed();
    this.scene.redraw();
  }

  /** Give up what is being drawn, then the tool, then the choice; false where there was nothing. */
  escape() {
    if (this.draft.length) this.draft = [];
    else if (this.tool !== "move") this.use("move");
    else if (this.selected) this.select(null);
    else return false;
    this.scene.redraw();
    return true;
  }

  /** Take back the last place of a polygon; false where none is being drawn. */
  back() {
    if (this.tool !== "polygon" || !this.draft.length) return false;
    this.draft.pop();
    this.scene.redraw();
    return true;
  }

  /** @param {XY} place @param {any} event */
  press(place, event) {
    const { tool } = this;
    this.erases = Boolean(event.originalEvent?.altKey);
    if (tool === "move") {
      this.corner = this.cornerAt(place);
      return false;
    }
    if (tool === "point") return true;
    this.isDrag = tool !== "polygon" || this.draft.length === 0;
    if (tool === "polygon") this.pressed = place;
    else this.draft = [place];
    return true;
  }

  /** @param {XY} place */
  drag(place) {
    const { tool } = this;
    if (tool === "move") {
      if (!this.corner) return false;
      const { rings, at: [polygon, ring, point] } = this.corner;
      rings[polygon][ring][point] = place;
      if (point === 0) rings[polygon][ring][rings[polygon][ring].length - 1] = place;
    } else if (tool === "rectangle" || tool === "line") this.draft = [this.draft[0], place];
    else if (tool !== "point") {
      if (tool === "polygon" && this.pressed) this.draft.push(this.pressed);
      this.pressed = null;
      this.draft.push(place);
    }
    this.scene.redraw();
    return true;
  }

  /** What was dragged is done; a click is told by `click`. */
  release() {
    const { tool, draft } = this;
    if (tool === "move" && this.corner && this.selected) {
      const { rings } = this.corner;
      const { geometry } = this.selected;
      this.corner = null;
      const coordinates = geometry.type === "Polygon" ? rings[0] : rings;
      if (JSON.stringify(coordinates) !== JSON.stringify(geometry.coordinates)) this.put({ ...this.selected, geometry: { ...geometry, coordinates } });
    } else if (tool === "brush" && draft.length) this.brush();
    else if (tool === "polygon" && this.isDrag && draft.length > 2) this.finish();
    else if ((tool === "rectangle" || tool === "line") && draft.length === 2) this.finish();
    return tool !== "move";
  }

  /** @param {XY} place @param {any} event */
  click(place, event) {
    const { tool, draft } = this;
    if (!event.quick) return tool !== "move";
    if (tool === "move") {
      const hit = this.hit(place);
      if (!hit && !this.selected) return false;
      this.select(hit);
      return true;
    }
    if (tool === "point") this.add({ type: "Point", coordinates: place.map(tenth) });
    else if (tool === "polygon") {
      const closes = draft.length > 2 && distance(place, draft[0]) < REACH_PX * this.perPx();
      if (closes) this.finish();
      else if (!draft.length || distance(place, draft[draft.length - 1]) > 2 * this.perPx()) this.draft.push(place);
    }
    this.scene.redraw();
    return true;
  }

  /** Make a feature of the draft; false where there is none. */
  finish() {
    const { tool, draft } = this;
    this.draft = [];
    if (draft.length < 2) return false;
    if (tool === "line") this.add({ type: "LineString", coordinates: draft.map((own) => own.map(tenth)) });
    else {
      const [[x1, y1], [x2, y2]] = draft;
      const ring = closedRing(tool === "rectangle" ? [[x1, y1], [x2, y1], [x2, y2], [x1, y2]] : simplified(draft, 0.6 * this.perPx()));
      if (ring) this.add({ type: "Polygon", coordinates: [ring] });
    }
    this.scene.redraw();
    return true;
  }

  /** Paint: into the shape that is selected and touched, else a new one; with Alt, out of it. */
  brush() {
    const stroke = simplified(this.draft, this.perPx());
    const radius = this.brushPx * this.perPx();
    this.draft = [];
    const chosen = this.selected;
    const touched = chosen && this.isOpen(chosen) && /Polygon$/.test(chosen.geometry.type)
      && (this.erases || stroke.some((own) => isHit(chosen.geometry, own, radius)));
    if (this.erases && !touched) return;
    const geometry = brushed(touched ? chosen.geometry : null, stroke, radius, this.erases);
    if (touched) this.put(geometry && { ...chosen, geometry });
    else if (geometry) this.add(geometry);
  }

  /** @param {Geometry} geometry */
  add(geometry) {
    const feature = this.make(geometry);
    this.annotations.add(feature);
    this.select(feature);
  }

  /** Change the selected feature, or take it away. @param {Feature | null} now */
  put(now) {
    const old = this.selected;
    if (!old || !this.isOpen(old)) return;
    this.selected = now;
    this.annotations.replace(old, now);
    this.scene.redraw();
  }

  /** @param {Feature} feature */
  isOpen(feature) {
    return feature.properties?.isLocked !== true;
  }

  /** The smallest shape at a place. @param {XY} place */
  hit(place) {
    const reach = REACH_PX * this.perPx();
    const found = this.annotations.features.filter((own) => {
      const { box } = this.drawn(own);
      const near = box[0] - reach <= place[0] && place[0] <= box[2] + reach && box[1] - reach <= place[1] && place[1] <= box[3] + reach;
      return near && isHit(own.geometry, place, reach);
    });
    const size = (/** @type {Feature} */ own) => { const { box } = this.drawn(own); return (box[2] - box[0]) * (box[3] - box[1]); };
    return found.sort((a, b) => size(a) - size(b))[0] ?? null;
  }

  /** The selected polygon's corner at a place, with a copy of its rings to change. @param {XY} place */
  cornerAt(place) {
    const chosen = this.selected;
    if (!chosen || !this.isOpen(chosen) || !/Polygon$/.test(chosen.geometry.type)) return null;
    const { type, coordinates } = structuredClone(chosen.geometry);
    /** @type {XY[][][]} */
    const rings = type === "Polygon" ? [coordinates] : coordinates;
    for (const [polygon, own] of rings.entries()) {
      for (const [ring, points] of own.entries()) {
        const point = points.findIndex((corner) => distance(corner, place) < REACH_PX * this.perPx());
        if (point >= 0) return { rings, at: /** @type {[number, number, number]} */ ([polygon, ring, point]) };
      }
    }
    return null;
  }

  /** @param {PointerEvent} event */
  follow(event) {
    const box = this.scene.host.getBoundingClientRect();
    this.pointer = this.place({ x: event.clientX - box.left, y: event.clientY - box.top });
    if (this.tool === "brush" || (this.tool === "polygon" && this.draft.length)) this.scene.redraw();
  }

  /** @param {Feature} feature */
  drawn({ geometry }) {
    const known = this.known.get(geometry) ?? { path: pathOf(geometry), box: boundsOf(geometry) };
    this.known.set(geometry, known);
    return known;
  }

  paint() {
    const { frame, doc } = this.scene;
    const k = this.perPx();
    const pen = this.scene.pen(this.canvas);
    pen.scale(1 / doc.l0_per_px, 1 / doc.l0_per_px);
    const [left, top] = this.place({ x: 0, y: 0 });
    const [right, bottom] = this.place({ x: frame.width, y: frame.height });
    pen.lineJoin = pen.lineCap = "round";
    for (const feature of this.annotations.features) {
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
    const isChosen = feature === this.selected;
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
    if (isChosen && this.tool === "move" && this.isOpen(feature) && /Polygon$/.test(feature.geometry.type)) this.paintCorners(pen, feature, k);
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
    if (!this.corner) return;
    pen.strokeStyle = "#ffd400";
    pen.lineWidth = 2 * k;
    pen.stroke(pathOf({ type: "MultiPolygon", coordinates: this.corner.rings }));
  }

  /** @param {CanvasRenderingContext2D} pen @param {number} k */
  paintDraft(pen, k) {
    const { tool, draft, pointer } = this;
    const radius = this.brushPx * k;
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

/** @param {XY} a @param {XY} b */
function distance(a, b) {
  return distanceTo(a, b, b);
}

/** @param {number} value */
function tenth(value) {
  return Math.round(value * 10) / 10;
}

// Drawing on the slide: tools, what is being drawn, and all that has been.

import { brushed } from "./brush.js";
import { Painted } from "./painted.js";
import { closedRing, distanceTo, isHit, simplified } from "./shapes.js";

/** @typedef {import("./shapes.js").XY} XY */
/** @typedef {import("./shapes.js").Feature} Feature */
/** @typedef {import("./shapes.js").Geometry} Geometry */
/** @typedef {"move" | "polygon" | "rectangle" | "brush" | "point" | "line"} Tool */

const REACH_PX = 8;

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
    this.painted = new Painted(this);
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
      const { box } = this.painted.drawn(own);
      const near = box[0] - reach <= place[0] && place[0] <= box[2] + reach && box[1] - reach <= place[1] && place[1] <= box[3] + reach;
      return near && isHit(own.geometry, place, reach);
    });
    const size = (/** @type {Feature} */ own) => { const { box } = this.painted.drawn(own); return (box[2] - box[0]) * (box[3] - box[1]); };
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
}

/** @param {XY} a @param {XY} b */
function distance(a, b) {
  return distanceTo(a, b, b);
}

/** @param {number} value */
function tenth(value) {
  return Math.round(value * 10) / 10;
}

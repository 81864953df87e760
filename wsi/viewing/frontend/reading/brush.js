// What a brush paints: the shape before and the stroke are filled on a small canvas, and the outline of what is filled is the shape after.

import { h } from "../base/dom.js";
import { boundsOf, closedRing, liesIn, pathOf, signedArea, simplified } from "./shapes.js";

/** @typedef {import("./shapes.js").XY} XY */
/** @typedef {import("./shapes.js").Geometry} Geometry */

const MOST_SIDE = 1500;
const STEPS_OF_RADIUS = 10;

/**
 * @param {Geometry | null} before
 * @param {XY[]} stroke
 * @param {number} radius
 * @param {boolean} erases
 * @returns {Geometry | null} a polygon or several; null where nothing is left
 */
export function brushed(before, stroke, radius, erases) {
  const boxes = [boundsOf({ type: "LineString", coordinates: stroke }), ...(before ? [boundsOf(before)] : [])];
  const [left, top] = [0, 1].map((side) => Math.min(...boxes.map((own) => own[side])) - radius);
  const [right, bottom] = [2, 3].map((side) => Math.max(...boxes.map((own) => own[side])) + radius);
  const step = Math.max(radius / STEPS_OF_RADIUS, Math.max(right - left, bottom - top) / MOST_SIDE);
  const [width, height] = [Math.ceil((right - left) / step) + 2, Math.ceil((bottom - top) / step) + 2];
  const pen = /** @type {CanvasRenderingContext2D} */ (h("canvas", { width, height }).getContext("2d", { willReadFrequently: true }));
  pen.setTransform(1 / step, 0, 0, 1 / step, 1 - left / step, 1 - top / step);
  if (before) pen.fill(pathOf(before), "evenodd");
  pen.globalCompositeOperation = erases ? "destination-out" : "source-over";
  pen.lineWidth = 2 * radius;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  stroke.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.lineTo(...stroke[stroke.length - 1]); // of one point: a dot
  pen.stroke();
  const alpha = pen.getImageData(0, 0, width, height).data;
  const rings = outlines((x, y) => x >= 0 && y >= 0 && x < width && y < height && alpha[(y * width + x) * 4 + 3] > 127, width, height);
  return assembled(rings.map((ring) => ring.map(([x, y]) => /** @type {XY} */ ([left + (x - 1) * step, top + (y - 1) * step]))), step);
}

/**
 * Borders between filled px and the others, clockwise around what is filled; px that touch at a corner are apart.
 * @param {(x: number, y: number) => boolean} isFilled
 * @param {number} width
 * @param {number} height
 * @returns {XY[][]}
 */
export function outlines(isFilled, width, height) {
  const wide = width + 1;
  /** Where borders lead to from a corner. @type {Map<number, number[]>} */
  const from = new Map();
  const add = (/** @type {number} */ x1, /** @type {number} */ y1, /** @type {number} */ x2, /** @type {number} */ y2) => {
    const key = y1 * wide + x1;
    from.set(key, [...(from.get(key) ?? []), y2 * wide + x2]);
  };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!isFilled(x, y)) continue;
      if (!isFilled(x, y - 1)) add(x, y, x + 1, y);
      if (!isFilled(x + 1, y)) add(x + 1, y, x + 1, y + 1);
      if (!isFilled(x, y + 1)) add(x + 1, y + 1, x, y + 1);
      if (!isFilled(x - 1, y)) add(x, y + 1, x, y);
    }
  }
  /** @type {XY[][]} */
  const rings = [];
  for (const start of from.keys()) {
    while (from.get(start)?.length) rings.push(follow(from, start, wide));
  }
  return rings;
}

/** @param {Map<number, number[]>} from @param {number} start @param {number} wide @returns {XY[]} */
function follow(from, start, wide) {
  /** @type {XY[]} */
  const ring = [];
  let [place, way] = [start, 0];
  do {
    ring.push([place % wide, Math.floor(place / wide)]);
    const ends = /** @type {number[]} */ (from.get(place));
    const right = place + turned(way, wide);
    const next = ends.includes(right) ? right : ends[0]; // around its own px
    ends.splice(ends.indexOf(next), 1);
    [way, place] = [next - place, next];
  } while (place !== start);
  return ring;
}

/** A step turned to the right: east, south, west, north. @param {number} way @param {number} wide */
function turned(way, wide) {
  return way === 1 ? wide : way === wide ? -1 : way === -1 ? -wide : 1;
}

/** Rings as a geometry: clockwise ones are borders, the others holes in them. @param {XY[][]} rings @param {number} step @returns {Geometry | null} */
function assembled(rings, step) {
  const outer = rings.filter((own) => signedArea(own) > 0);
  const polygons = outer.flatMap((ring) => {
    const holes = rings.filter((own) => signedArea(own) < 0 && liesIn(inside(own), [ring]));
    const kept = [ring, ...holes].map((own) => closedRing(smooth(own, step)));
    return kept[0] ? [kept.filter((own) => own !== null)] : [];
  });
  if (polygons.length === 0) return null;
  return polygons.length === 1 ? { type: "Polygon", coordinates: polygons[0] } : { type: "MultiPolygon", coordinates: polygons };
}

/** A place within a hole's first border, half a px from it. @param {XY[]} ring @returns {XY} */
function inside([[x1, y1], [x2, y2]]) {
  return [(x1 + x2) / 2 + (y2 - y1) / 2, (y1 + y2) / 2 - (x2 - x1) / 2];
}

/** Stairs become slopes: through the middles of their steps. @param {XY[]} stairs @param {number} step */
function smooth(stairs, step) {
  const ring = stairs.map(([x, y], index) => {
    const [u, v] = stairs[(index + 1) % stairs.length];
    return /** @type {XY} */ ([(x + u) / 2, (y + v) / 2]);
  });
  const half = Math.floor(ring.length / 2);
  return [...simplified(ring.slice(0, half + 1), step / 2).slice(0, -1), ...simplified([...ring.slice(half), ring[0]], step / 2).slice(0, -1)];
}

// Geometry of annotations, GeoJSON in level-0 px of the slide: paths, sizes, what lies where.

/** @typedef {[number, number]} XY */
/** @typedef {{type: string, coordinates?: any, geometries?: Geometry[]}} Geometry */
/** @typedef {{type: "Feature", id?: string, geometry: Geometry, properties: Record<string, any>}} Feature */

/** Every ring, line and point of a geometry. @param {Geometry} geometry @returns {{rings: XY[][], lines: XY[][], points: XY[]}} */
export function partsOf({ type, coordinates, geometries }) {
  /** @type {{rings: XY[][], lines: XY[][], points: XY[]}} */
  const parts = { rings: [], lines: [], points: [] };
  if (type === "Polygon") parts.rings = coordinates;
  else if (type === "MultiPolygon") parts.rings = coordinates.flat();
  else if (type === "LineString") parts.lines = [coordinates];
  else if (type === "MultiLineString") parts.lines = coordinates;
  else if (type === "Point") parts.points = [coordinates];
  else if (type === "MultiPoint") parts.points = coordinates;
  for (const own of (geometries ?? []).map(partsOf)) {
    for (const name of /** @type {const} */ (["rings", "lines", "points"])) parts[name] = /** @type {any} */ ([...parts[name], ...own[name]]);
  }
  return parts;
}

/** Rings and lines for a canvas; points are drawn by size of the screen. @param {Geometry} geometry */
export function pathOf(geometry) {
  const path = new Path2D();
  const { rings, lines } = partsOf(geometry);
  for (const [points, isRing] of [...rings.map((own) => /** @type {const} */ ([own, true])), ...lines.map((own) => /** @type {const} */ ([own, false]))]) {
    points.forEach(([x, y], index) => (index ? path.lineTo(x, y) : path.moveTo(x, y)));
    if (isRing) path.closePath();
  }
  return path;
}

/** Left, top, right, bottom. @param {Geometry} geometry @returns {[number, number, number, number]} */
export function boundsOf(geometry) {
  const { rings, lines, points } = partsOf(geometry);
  /** @type {[number, number, number, number]} */
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [x, y] of [...rings.flat(), ...lines.flat(), ...points]) {
    box[0] = Math.min(box[0], x);
    box[1] = Math.min(box[1], y);
    box[2] = Math.max(box[2], x);
    box[3] = Math.max(box[3], y);
  }
  return box;
}

/** Twice its area would be the sum of its cross products: positive where it runs clockwise on the screen. @param {XY[]} ring */
export function signedArea(ring) {
  return ring.reduce((sum, [x, y], index) => {
    const [u, v] = ring[(index + 1) % ring.length];
    return sum + (x * v - u * y) / 2;
  }, 0);
}

/** Area of rings (a hole lies in another ring) and length of lines, in px. @param {Geometry} geometry */
export function sizeOf(geometry) {
  const polygons = geometry.type === "Polygon" ? [geometry.coordinates] : geometry.type === "MultiPolygon" ? geometry.coordinates : [];
  const area = polygons.reduce((/** @type {number} */ sum, /** @type {XY[][]} */ rings) =>
    sum + rings.reduce((own, ring, index) => own + (index ? -1 : 1) * Math.abs(signedArea(ring)), 0), 0);
  const length = partsOf(geometry).lines.reduce((sum, line) =>
    sum + line.slice(1).reduce((own, [x, y], index) => own + Math.hypot(x - line[index][0], y - line[index][1]), 0), 0);
  return { area, length };
}

/** @param {XY} point @param {XY} from @param {XY} to */
export function distanceTo([x, y], [x1, y1], [x2, y2]) {
  const squared = (x2 - x1) ** 2 + (y2 - y1) ** 2;
  const along = squared ? Math.min(1, Math.max(0, ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / squared)) : 0;
  return Math.hypot(x - x1 - along * (x2 - x1), y - y1 - along * (y2 - y1));
}

/** Whether a place lies in rings, by the number of their borders to its right. @param {XY} place @param {XY[][]} rings */
export function liesIn([x, y], rings) {
  let inside = false;
  for (const ring of rings) {
    for (let index = 0, last = ring.length - 1; index < ring.length; last = index++) {
      const [[x1, y1], [x2, y2]] = [ring[index], ring[last]];
      if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) inside = !inside;
    }
  }
  return inside;
}

/** Whether a press at a place means a geometry. @param {Geometry} geometry @param {XY} place @param {number} reach px */
export function isHit(geometry, place, reach) {
  const { rings, lines, points } = partsOf(geometry);
  const near = (/** @type {XY[]} */ line) => line.slice(1).some((own, index) => distanceTo(place, line[index], own) <= reach);
  return liesIn(place, rings) || rings.some(near) || lines.some(near) || points.some(([x, y]) => Math.hypot(x - place[0], y - place[1]) <= reach * 1.5);
}

/** Leave out points that lie within a tolerance of the line through the others (Douglas and Peucker). @param {XY[]} line @param {number} tolerance @returns {XY[]} */
export function simplified(line, tolerance) {
  const kept = new Uint8Array(line.length);
  kept[0] = kept[line.length - 1] = 1;
  const spans = [[0, line.length - 1]];
  while (spans.length) {
    const [from, to] = /** @type {[number, number]} */ (spans.pop());
    let [farthest, most] = [-1, tolerance];
    for (let index = from + 1; index < to; index++) {
      const away = distanceTo(line[index], line[from], line[to]);
      if (away > most) [farthest, most] = [index, away];
    }
    if (farthest < 0) continue;
    kept[farthest] = 1;
    spans.push([from, farthest], [farthest, to]);
  }
  return line.filter((_, index) => kept[index]);
}

/** A ring of points without its last, as GeoJSON wants it: closed, at tenths of a px; null where it encloses nothing. @param {XY[]} points @returns {XY[] | null} */
export function closedRing(points) {
  const tenths = points.map(([x, y]) => /** @type {XY} */ ([Math.round(x * 10) / 10, Math.round(y * 10) / 10]));
  const own = tenths.filter(([x, y], index) => index === 0 || x !== tenths[index - 1][0] || y !== tenths[index - 1][1]);
  while (own.length > 1 && own[0][0] === own[own.length - 1][0] && own[0][1] === own[own.length - 1][1]) own.pop();
  return own.length >= 3 && Math.abs(signedArea(own)) > 0 ? [...own, own[0]] : null;
}

// One slide in a viewer: its tiles, where they are, and what is drawn over them in each frame.

import { bits } from "../base/documents.js";
import { h, s } from "../base/dom.js";

/** @typedef {{x: number, y: number, scale: number, width: number, height: number}} Frame
 * Where displayed level 0 lies on the screen: css px of its corner in the viewer, css px per px, and the viewer's size. */
/** @typedef {[number, number]} XY */

const MOST_ZOOM = 4;

export class Scene {
  /**
   * @param {import("../base/documents.js").SlideDoc} doc
   * @param {HTMLElement} host
   * @param {string} base where `tiles/` lies, with the last slash; "" beside the page
   */
  constructor(doc, host, base = "") {
    this.doc = doc;
    this.host = host;
    this.base = base;
    /** @type {((frame: Frame) => void)[]} */
    this.painters = [];
    /** @type {Frame} */
    this.frame = { x: 0, y: 0, scale: 1, width: 0, height: 0 };
    const [red, green, blue] = doc.background;
    this.glass = `rgb(${red}, ${green}, ${blue})`;
    host.style.backgroundColor = this.glass;
    /** Whether a tile is there, by level and index. */
    this.there = doc.present.map(bits);
    forestall();
    this.viewer = new OpenSeadragon.Viewer({
      element: host,
      drawer: "canvas",
      tileSources: this.tileSource(),
      prefixUrl: "",
      showNavigationControl: false,
      showNavigator: true,
      navigatorSizeRatio: 0.16,
      navigatorMaintainSizeRatio: true,
      navigatorBackground: this.glass,
      navigatorOpacity: 1,
      navigatorAutoFade: false,
      maxZoomPixelRatio: MOST_ZOOM,
      minZoomImageRatio: 0.7,
      visibilityRatio: 0.3,
      animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.5,
      immediateRender: true,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { pinchRotate: false, dblClickToZoom: true },
      silenceMultiImageWarnings: true,
    });
    // it draws tiles a px too large, against seams: where px meet px there are none, and what is shown is the slide's own
    this.viewer.drawer.minimumOverlapRequired = () => !this.isAligned();
    this.viewer.addHandler("canvas-key", (/** @type {any} */ event) => { event.preventDefaultAction = true; });
    this.absent = this.layer("absent");
    this.over = this.layer("over");
    this.shapes = s("g");
    this.drawing = s("svg", { class: "shapes", "aria-hidden": "true" }, this.shapes);
    this.viewer.canvas.append(this.absent, this.over, this.drawing);
    this.viewer.canvas.setAttribute("aria-label", `Slide ${doc.id}: arrow keys move, plus and minus zoom`);
    this.viewer.canvas.setAttribute("role", "application");
    this.outline = s("path", { class: "outline", d: doc.outline.map(ring).join("") });
    this.shapes.append(s("rect", { class: "edge", width: doc.width, height: doc.height }), this.outline);
    this.holes = this.absentCells();
    const { navigator } = this.viewer;
    const small = this.layer("absent");
    navigator.displayRegionContainer.before(small);
    navigator.addHandler("update-viewport", () => this.drawHoles(small, this.frameOf(navigator)));
    this.viewer.addHandler("update-viewport", () => this.paint());
    this.viewer.addHandler("resize", () => this.viewer.forceRedraw());
  }

  /** OpenSeadragon counts levels from the coarsest, and asks for nothing that is not there. */
  tileSource() {
    const { doc } = this;
    const finest = doc.levels.length - 1;
    const columns = doc.levels.map(([, width]) => Math.ceil(width / doc.tile_px));
    return {
      width: doc.width,
      height: doc.height,
      tileSize: doc.tile_px,
      minLevel: 0,
      maxLevel: finest,
      getLevelScale: (/** @type {number} */ level) => 1 / doc.factors[finest - level],
      getTileUrl: (/** @type {number} */ level, /** @type {number} */ x, /** @type {number} */ y) => this.tileAddress(finest - level, y, x),
      tileExists: (/** @type {number} */ level, /** @type {number} */ x, /** @type {number} */ y) => {
        const own = finest - level;
        const rows = own >= 0 && own <= finest ? Math.ceil(doc.levels[own][0] / doc.tile_px) : 0;
        return x >= 0 && y >= 0 && y < rows && x < columns[own] && this.there[own](y * columns[own] + x);
      },
    };
  }

  /** @param {number} level @param {number} row @param {number} column */
  tileAddress(level, row, column) {
    return `${this.base}tiles/${level}/${row}_${column}.jpg`;
  }

  /** Whether a tile of the finest level is there. @param {number} row @param {number} column */
  isThere(row, column) {
    const [rows, columns] = this.grid();
    return row >= 0 && column >= 0 && row < rows && column < columns && this.there[0](row * columns + column);
  }

  /** Rows and columns of the finest level. @returns {[number, number]} */
  grid() {
    return [Math.ceil(this.doc.height / this.doc.tile_px), Math.ceil(this.doc.width / this.doc.tile_px)];
  }

  /** @param {string} kind */
  layer(kind) {
    return h("canvas", { class: `layer ${kind}`, "aria-hidden": "true" });
  }

  /**
   * A px for each tile that is not there, in the slide's background: in coarser tiles its place is white. It is laid over
   * them so that each px keeps the darker of both, and tissue stays what it is.
   */
  absentCells() {
    const [rows, columns] = this.grid();
    const cells = new ImageData(columns, rows);
    let any = false;
    for (let index = 0; index < rows * columns; index++) {
      if (this.there[0](index)) continue;
      any = true;
      cells.data.set([...this.doc.background, 255], index * 4);
    }
    return any ? pictureOf(cells) : null;
  }

  paint() {
    this.frame = this.frameOf(this.viewer);
    const { x, y, scale } = this.frame;
    this.drawHoles(this.absent, this.frame);
    this.shapes.setAttribute("transform", `translate(${x} ${y}) scale(${scale})`);
    for (const paint of this.painters) paint(this.frame);
  }

  /** Tiles that are not there, and what the last tiles hold beyond the slide's edge. @param {HTMLCanvasElement} canvas @param {Frame} frame */
  drawHoles(canvas, frame) {
    const pen = this.pen(canvas, frame);
    if (this.holes) this.drawCells(pen, this.holes, this.doc.tile_px);
    pen.strokeStyle = this.glass;
    pen.lineWidth = 4 / frame.scale;
    pen.strokeRect(0, 0, this.doc.width, this.doc.height);
  }

  /** Whether all tiles that this view wants are drawn. */
  isWhole() {
    return this.viewer.world.getItemCount() > 0 && this.viewer.world.getItemAt(0).getFullyLoaded();
  }

  /** @param {any} viewer or its navigator @returns {Frame} */
  frameOf({ viewport, element }) {
    const corner = viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    const right = viewport.pixelFromPoint(new OpenSeadragon.Point(1, 0), true);
    return { x: corner.x, y: corner.y, scale: (right.x - corner.x) / this.doc.width, width: element.clientWidth, height: element.clientHeight };
  }

  /** Whether px of the finest level are now px of the screen, or whole numbers of them. */
  isAligned() {
    const dense = window.devicePixelRatio || 1;
    const { x, y, scale } = this.frameOf(this.viewer);
    return scale * dense > 0.999 && [x * dense, y * dense, scale * dense].every((own) => Math.abs(own - Math.round(own)) < 1e-4);
  }

  /** Size a layer to the viewer and clear it; its pen draws in px of displayed level 0. @param {HTMLCanvasElement} canvas */
  pen(canvas, { x, y, scale, width, height } = this.frame) {
    const dense = window.devicePixelRatio || 1;
    const [wide, high] = [Math.round(width * dense), Math.round(height * dense)];
    if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, wide, high);
    pen.setTransform(dense * scale, 0, 0, dense * scale, dense * x, dense * y);
    return pen;
  }

  /** Draw a picture of one px a tile over the slide, no further. @param {CanvasRenderingContext2D} pen @param {HTMLCanvasElement} cells @param {number} side */
  drawCells(pen, cells, side) {
    pen.save();
    pen.beginPath();
    pen.rect(0, 0, this.doc.width, this.doc.height);
    pen.clip();
    pen.imageSmoothingEnabled = false;
    pen.drawImage(cells, 0, 0, cells.width * side, cells.height * side);
    pen.restore();
  }

  redraw() {
    this.viewer.forceRedraw();
  }

  /** A place in the viewer, css px, as px of displayed level 0. @param {{x: number, y: number}} place @returns {XY} */
  toSlide(place) {
    return [(place.x - this.frame.x) / this.frame.scale, (place.y - this.frame.y) / this.frame.scale];
  }

  /** Where the reader looks: the middle, px of displayed level 0, and css px per px. @returns {[number, number, number]} */
  where() {
    const { viewport } = this.viewer;
    const middle = viewport.getCenter(false);
    const scale = (viewport.getZoom(false) * this.host.clientWidth) / this.doc.width;
    return [middle.x * this.doc.width, middle.y * this.doc.width, scale];
  }

  /** Look at a place, px on whole px of the screen: at 1:1 nothing blurs. @param {number} x @param {number} y @param {number} scale css px per px @param {boolean} [now] */
  look(x, y, scale, now = false) {
    const dense = window.devicePixelRatio || 1;
    const whole = (/** @type {number} */ at, /** @type {number} */ side) => (side / 2 - Math.round((side / 2 - at * scale) * dense) / dense) / scale;
    this.aim(whole(x, this.host.clientWidth), whole(y, this.host.clientHeight), scale, now);
  }

  /** @param {number} x @param {number} y @param {number} scale @param {boolean} [now] */
  aim(x, y, scale, now = false) {
    const { viewport } = this.viewer;
    viewport.zoomTo((scale * this.doc.width) / this.host.clientWidth, null, now);
    viewport.panTo(new OpenSeadragon.Point(x / this.doc.width, y / this.doc.width), now);
    if (now) this.redraw();
  }

  /** Show a place at a magnification: 20 means 0.5 um per css px, as an objective of 20 would. @param {number} times */
  magnify(times) {
    const [x, y] = this.where();
    this.look(x, y, (this.doc.mpp * times) / 10);
  }

  /** @param {number} factor */
  zoom(factor) {
    this.viewer.viewport.zoomBy(factor);
    this.viewer.viewport.applyConstraints();
  }

  /** Move by shares of what is seen. @param {number} right @param {number} down */
  move(right, down) {
    const [x, y, scale] = this.where();
    this.look(x + (right * this.host.clientWidth) / scale, y + (down * this.host.clientHeight) / scale, scale);
    this.viewer.viewport.applyConstraints();
  }

  home() {
    this.viewer.viewport.goHome();
  }

  close() {
    this.viewer.destroy();
    this.host.replaceChildren();
  }
}

/**
 * OpenSeadragon writes a rule into each page that has none of its own, which the server's policy forbids: the rule stands in
 * our style, and an element of that name that is no style sheet stands where it looks for its own.
 */
function forestall() {
  if (document.querySelector("style[data-openseadragon-mobile-css]")) return;
  const stand = document.createElementNS("urn:gigamil", "style");
  stand.setAttribute("data-openseadragon-mobile-css", "");
  document.head.append(stand);
}

/** @param {ImageData} cells */
export function pictureOf(cells) {
  const picture = h("canvas", { width: cells.width, height: cells.height });
  /** @type {CanvasRenderingContext2D} */ (picture.getContext("2d")).putImageData(cells, 0, 0);
  return picture;
}

/** A closed ring as an SVG path. @param {[number, number][]} points */
export function ring(points) {
  return points.length ? `M${points.map(([x, y]) => `${x} ${y}`).join("L")}Z` : "";
}

// The page of one slide: the viewer, the panel beside it, the keyboard, and the address that opens the same view again.

import { h, recall, remember, say } from "../base/dom.js";
import { readLink, writeLink } from "../base/link.js";
import { ReadingDesk } from "../reading/desk.js";
import { Beside } from "./beside.js";
import { Gallery } from "./gallery.js";
import { Heat } from "./heat.js";
import { HeatPanel, valueText } from "./heat_panel.js";
import { Keys } from "./keys.js";
import { Measure, scaleBar } from "./measure.js";
import { Neighbours } from "./neighbours.js";
import { factsPart, predictionPart } from "./prediction.js";
import { Scene } from "./scene.js";

/** @typedef {import("../base/documents.js").SlideDoc} SlideDoc */

export class SlidePage {
  /** @param {SlideDoc} doc */
  constructor(doc) {
    document.title = doc.title;
    this.doc = doc;
    const view = readLink(location.hash);
    this.host = h("div", { class: "viewer" });
    this.pane = h("div", { class: "pane" }, this.host);
    this.stage = h("div", { class: "stage" }, this.pane);
    this.panel = h("aside", { class: "panel", "aria-label": "About this slide" });
    this.tools = h("div", { class: "tools", role: "toolbar", "aria-label": "View" });
    this.bar = h("header", { class: "top" }, h("a", { href: doc.home, class: "home" }, "All slides"), h("h1", {}, doc.title));
    document.body.append(this.bar, h("main", {}, this.stage, this.panel));

    this.scene = new Scene(doc, this.host);
    this.heat = new Heat(this.scene, heatChoice(doc, view));
    this.measure = new Measure(this.scene, (on) => this.measureButton?.setAttribute("aria-pressed", String(on)));
    this.neighbours = new Neighbours(doc, (id, folder) => this.beside.open(id, folder), (linked) => this.beside.link(linked));
    this.beside = new Beside(this.scene, this.heat, this.stage, () => this.changed());
    this.heatPanel = new HeatPanel(this.heat, () => this.changed());
    this.gallery = new Gallery(this.heat, (index) => this.jump(index));
    this.status = h("p", { class: "status" });
    this.pane.append(this.tools, scaleBar(this.scene), this.status);
    this.fillTools();
    this.bar.append(this.neighbours.element);
    this.fillPanel();
    this.keys = new Keys();
    this.addKeys();
    this.desk = doc.api ? new ReadingDesk(this, doc.api) : null;

    this.showOutline(view.outline ?? true);
    this.scene.viewer.addOnceHandler("open", () => this.open(view));
    this.scene.viewer.addHandler("viewport-change", () => this.changed());
    window.addEventListener("hashchange", () => this.go(readLink(location.hash)));
    this.host.addEventListener("pointermove", (event) => this.tellPlace(event));
    this.host.addEventListener("pointerleave", () => this.tellPlace(null));
    this.scene.painters.push(() => this.tellPlace(undefined));
  }

  /** @param {import("../base/link.js").View} view */
  open(view) {
    this.isOpen = true;
    if (view.at) this.scene.look(...view.at, true);
    this.neighbours.choose(view.beside ?? "");
    this.scene.redraw();
  }

  /** Take up an address that was typed, or gone back to. @param {import("../base/link.js").View} view */
  go(view) {
    if (view.at) this.scene.look(...view.at);
    this.heat.choose(heatChoice(this.doc, view));
    this.heatPanel.refresh();
    this.showOutline(view.outline ?? true);
    if ((view.beside ?? "") !== this.beside.shown) this.neighbours.choose(view.beside ?? "");
  }

  /** Keep the address at what is seen, a little later. */
  changed() {
    window.clearTimeout(this.writing);
    document.body.classList.remove("still");
    this.writing = window.setTimeout(() => {
      if (!this.isOpen) return;
      const { key, scale, colours, opacity, below, shown } = this.heat.choice;
      remember("heat", JSON.stringify({ colours, opacity }));
      const heat = this.doc.layers.length ? { heat: shown ? key : "off", scale, colours, opacity, below } : {};
      history.replaceState(null, "", writeLink({
        at: this.scene.where(), ...heat, outline: this.isOutlined, beside: this.beside.shown || undefined,
      }));
      if (!this.scene.isWhole() || this.beside.second?.isWhole() === false) this.changed();
      else document.body.classList.add("still"); // for those who take pictures of pages
    }, 200);
  }

  fillTools() {
    const button = (/** @type {string} */ text, /** @type {string} */ name, /** @type {() => void} */ act) =>
      h("button", { type: "button", title: name, "aria-label": name, onclick: act }, text);
    this.measureButton = button("Measure", "Measure a distance (M)", () => this.measure.turn(!this.measure.on));
    this.outlineButton = button("Outline", "Tissue outline (O)", () => this.showOutline(!this.isOutlined));
    this.measureButton.setAttribute("aria-pressed", "false");
    this.tools.append(
      button("+", "Zoom in (+)", () => this.scene.zoom(2)),
      button("−", "Zoom out (−)", () => this.scene.zoom(0.5)),
      button("Whole", "The whole slide (0)", () => this.scene.home()),
      this.measureButton,
      this.outlineButton,
      button("?", "Keys (?)", () => this.keys.help()),
    );
  }

  fillPanel() {
    const { doc } = this;
    if (doc.prediction) this.panel.append(predictionPart(doc.prediction));
    if (doc.layers.length) this.panel.append(this.heatPanel.element);
    if (doc.layers.length && doc.top.length + doc.bottom.length) this.panel.append(this.gallery.element);
    this.panel.append(factsPart(doc));
    this.panel.append(h("p", { class: "note research" }, "For research. Not a medical device: not for diagnosis."));
  }

  addKeys() {
    const { scene } = this;
    const moves = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] });
    const times = [1.25, 2.5, 5, 10, 20, 40];
    this.keys.add("Where to look", [
      { keys: Object.keys(moves), shown: "← → ↑ ↓", text: "Move (with Shift: a whole view)", act: (key, event) => {
        const step = event.shiftKey ? 0.9 : 0.2;
        scene.move(moves[key][0] * step, moves[key][1] * step);
      } },
      { keys: ["+", "="], shown: "+", text: "Zoom in", act: () => scene.zoom(1.5) },
      { keys: ["-", "_", "−"], shown: "−", text: "Zoom out", act: () => scene.zoom(1 / 1.5) },
      { keys: ["0", "Home"], shown: "0", text: "The whole slide", act: () => scene.home() },
      { keys: ["1", "2", "3", "4", "5", "6"], shown: "1 … 6", text: `Like an objective of ${times.join(", ")}`, act: (key) => scene.magnify(times[Number(key) - 1]) },
      { keys: ["n"], shown: "N", text: "Next tile of the gallery", act: () => this.gallery.go((this.gallery.current ?? -1) + 1) },
      { keys: ["p"], shown: "P", text: "Tile before", act: () => this.gallery.go((this.gallery.current ?? this.gallery.order.length) - 1) },
      { keys: ["PageDown"], shown: "PageDown", text: "Next slide", act: () => this.neighbours.step(1) },
      { keys: ["PageUp"], shown: "PageUp", text: "Slide before", act: () => this.neighbours.step(-1) },
    ]);
    this.keys.add("What to see", [
      { keys: ["h"], shown: "H", text: "Heat map", act: () => this.heatPanel.set({ shown: !this.heat.choice.shown }) },
      { keys: ["l"], shown: "L", text: "Next layer (with Shift: the one before)", act: (_, event) => this.heatPanel.turn(event.shiftKey ? -1 : 1) },
      { keys: ["["], shown: "[", text: "Hide fewer tiles", act: () => this.shiftThreshold(-0.05) },
      { keys: ["]"], shown: "]", text: "Hide more tiles", act: () => this.shiftThreshold(0.05) },
      { keys: ["o"], shown: "O", text: "Tissue outline", act: () => this.showOutline(!this.isOutlined) },
      { keys: ["m"], shown: "M", text: "Measure: press two places", act: () => this.measure.turn(!this.measure.on) },
      { keys: ["Escape"], shown: "Esc", text: "Stop measuring or drawing; clear distances", act: () => this.escape() },
    ]);
  }

  escape() {
    if (this.desk?.escape()) return;
    if (this.measure.on) this.measure.turn(false);
    else this.measure.clear();
  }

  /** @param {number} step */
  shiftThreshold(step) {
    const below = Math.min(1, Math.max(0, Math.round((this.heat.choice.below + step) * 100) / 100));
    this.heatPanel.set({ below });
    say(`Hidden below: ${this.heatPanel.belowText.textContent}`);
  }

  /** @param {boolean} shown */
  showOutline(shown) {
    this.isOutlined = shown;
    this.scene.outline.classList.toggle("off", !shown);
    this.outlineButton?.setAttribute("aria-pressed", String(shown));
    this.changed();
  }

  /** Show a listed tile in half the viewer, at most 1:1. @param {number} index */
  jump(index) {
    const side = this.doc.store_tile_px;
    const [x, y] = this.heat.corner(index);
    const scale = Math.min(1, Math.min(this.host.clientWidth, this.host.clientHeight) / (2 * side));
    this.scene.look(x + side / 2, y + side / 2, scale);
    this.scene.redraw();
    if (this.host.getBoundingClientRect().bottom < 80) this.host.scrollIntoView({ block: "start" });
  }

  /** What lies under the pointer, and at which scale one looks. @param {PointerEvent | null | undefined} event */
  tellPlace(event) {
    if (event === null) this.pointer = null;
    else if (event) {
      const box = this.host.getBoundingClientRect();
      this.pointer = { x: event.clientX - box.left, y: event.clientY - box.top };
    }
    const um = this.doc.mpp / this.scene.frame.scale;
    const parts = [`${um < 10 ? um.toPrecision(2) : Math.round(um)} µm/px, like ${Number((10 / um).toPrecision(2))}×`];
    const layer = this.pointer && this.heat.layer();
    const index = this.pointer ? this.heat.tileAt(this.scene.toSlide(this.pointer)) : -1;
    if (layer && index >= 0) parts.push(valueText(layer.doc, layer.values[index]));
    const text = parts.join(" · ");
    if (this.status.textContent !== text) this.status.textContent = text;
  }
}

/** What the heat map shows at first: what the address says, else what the reader last chose. @param {SlideDoc} doc @param {import("../base/link.js").View} view */
function heatChoice(doc, view) {
  const layer = doc.layers.find((own) => own.key === view.heat) ?? doc.layers[0];
  const kept = kindly(recall("heat"));
  /** @type {import("../base/colours.js").ScaleName[]} */
  const scales = ["linear", "log", "rank"];
  return {
    key: layer?.key ?? "",
    scale: scales.find((own) => own === view.scale) ?? layer?.scale ?? "linear",
    colours: view.colours ?? String(kept.colours ?? "viridis"),
    opacity: view.opacity ?? (Number(kept.opacity) > 0 && Number(kept.opacity) <= 1 ? Number(kept.opacity) : 0.6),
    below: view.below ?? 0,
    shown: view.heat === undefined ? doc.prediction !== null : view.heat !== "off", // of a store alone it is asked for
  };
}

/** @param {string | null} text @returns {Record<string, unknown>} */
function kindly(text) {
  try {
    return JSON.parse(text ?? "{}") ?? {};
  } catch {
    return {};
  }
}


// The panel of annotations: tools, classes, the list, and whether all of it is saved.

import { area, h, labelled, length, offer, recall, remember, section } from "../base/dom.js";
import { Annotations, uuid } from "./annotations.js";
import { Drawing } from "./draw.js";
import { colourOf } from "./painted.js";
import { boundsOf, sizeOf } from "./shapes.js";

/** @typedef {import("./shapes.js").Feature} Feature */
/** @typedef {import("./draw.js").Tool} Tool */

/** QuPath's own classes and colours; a name that ends in `*` is ignored when regions are measured. @type {[string, number[]][]} */
const CLASSES = [["Tumor", [200, 0, 0]], ["Stroma", [150, 200, 150]], ["Immune cells", [160, 90, 160]], ["Necrosis", [50, 50, 50]],
  ["Region*", [0, 0, 180]], ["Ignore*", [180, 180, 180]]];
/** @type {[Tool, string, string][]} */
const TOOLS = [["move", "Select", "v"], ["polygon", "Polygon", "g"], ["rectangle", "Rectangle", "r"], ["brush", "Brush", "b"], ["line", "Line", "i"], ["point", "Point", "t"]];
const MOST_LISTED = 200;
const STATES = { loading: "Loading …", saved: "Saved", saving: "Saving …", unsaved: "Not saved yet, trying again", conflict: "Not saved: changed elsewhere", refused: "Not saved" };

export class AnnotationPanel {
  /** @param {import("../slide/slide_page.js").SlidePage} page @param {string} address */
  constructor(page, address) {
    this.page = page;
    this.scene = page.scene;
    this.annotations = new Annotations(address, page.doc.id, () => this.refresh());
    this.drawing = new Drawing(page.scene, this.annotations, (geometry) => this.make(geometry), () => this.refresh());
    /** @type {Map<string, number[]>} */
    this.classes = new Map([...CLASSES, ...JSON.parse(recall("classes") ?? "[]")]);
    this.className = "";
    this.tools = h("div", { class: "buttons", role: "group", "aria-label": "Tools" });
    this.classField = h("select", { onchange: () => this.setClass(this.classField.value) });
    this.colour = h("input", { type: "color", "aria-label": "Colour of the class", onchange: () => this.recolour() });
    this.newClass = h("input", { type: "text", maxlength: 60, autocomplete: "off" });
    this.brush = h("input", { type: "range", min: 4, max: 90, value: 24, oninput: () => { this.drawing.brushPx = Number(this.brush.value); } });
    this.brushField = labelled("Size of the brush (Alt takes away)", this.brush);
    this.undo = h("button", { type: "button", onclick: () => this.turn("undo") }, "Undo");
    this.redo = h("button", { type: "button", onclick: () => this.turn("redo") }, "Redo");
    this.state = h("p", { class: "save-state", role: "status" });
    this.trouble = h("div", { class: "trouble" });
    this.chosen = h("div", { class: "chosen" });
    this.list = h("ul", { class: "annotations" });
    this.element = section("Annotations", true, this.trouble, this.tools, this.brushField,
      h("div", { class: "pair wide-first" }, labelled("Class", this.classField), this.colour),
      h("form", { class: "pair wide-first", onsubmit: (/** @type {Event} */ event) => this.addClass(event) }, labelled("New class", this.newClass), h("button", {}, "Add")),
      h("div", { class: "buttons" }, this.undo, this.redo), this.state, this.chosen, this.list,
      h("button", { type: "button", onclick: () => this.keep() }, "Save a copy as GeoJSON"));
    this.addKeys();
    document.addEventListener("keydown", (event) => this.press(event));
    this.annotations.load();
    this.refresh();
  }

  addKeys() {
    this.page.keys.add("Annotations", [
      ...TOOLS.map(([tool, name, key]) => ({ keys: [key], shown: key.toUpperCase(), text: name, act: () => this.drawing.use(tool) })),
      { keys: ["c"], shown: "C", text: "Next class", act: () => this.nextClass() },
      { keys: ["Enter"], shown: "Enter", text: "Close the polygon", act: () => this.drawing.finish() },
      { keys: ["Delete", "Backspace"], shown: "Delete", text: "Delete what is selected; of a polygon being drawn, the last corner", act: () => this.drawing.back() || this.drawing.put(null) },
      { keys: [], shown: "Ctrl+Z Ctrl+Y", text: "Undo, redo", act: () => undefined },
    ]);
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    if (!(event.ctrlKey || event.metaKey) || /** @type {HTMLElement} */ (event.target).matches("textarea, input[type=text]")) return;
    const key = event.key.toLowerCase();
    if (key !== "z" && key !== "y") return;
    event.preventDefault();
    this.turn(key === "y" || event.shiftKey ? "redo" : "undo");
  }

  /** @param {"undo" | "redo"} way */
  turn(way) {
    this.drawing.selected = null;
    this.annotations[way]();
    this.scene.redraw();
  }

  /** @param {import("./shapes.js").Geometry} geometry @returns {Feature} */
  make(geometry) {
    const classification = this.className ? { classification: this.classification(this.className) } : {};
    return { type: "Feature", id: uuid(), geometry, properties: { objectType: "annotation", isLocked: false, ...classification } };
  }

  /** @param {string} name */
  classification(name) {
    return { name, color: this.classes.get(name) ?? [128, 128, 128] };
  }

  /** The class of what is drawn next, and of what is selected. @param {string} name */
  setClass(name) {
    this.className = name;
    const { selected } = this.drawing;
    if (selected) {
      const { classification: _, ...others } = selected.properties;
      this.drawing.put({ ...selected, properties: name ? { ...others, classification: this.classification(name) } : others });
    }
    this.refresh();
  }

  nextClass() {
    const names = ["", ...this.classes.keys()];
    this.setClass(names[(names.indexOf(this.className) + 1) % names.length]);
  }

  /** @param {Event} event */
  addClass(event) {
    event.preventDefault();
    const name = this.newClass.value.trim();
    if (!name) return;
    const hues = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]];
    if (!this.classes.has(name)) this.classes.set(name, hues[this.classes.size % hues.length]);
    this.newClass.value = "";
    this.keepClasses();
    this.setClass(name);
  }

  /** A class has one colour on a slide. */
  recolour() {
    const color = [1, 3, 5].map((at) => parseInt(this.colour.value.slice(at, at + 2), 16));
    const name = this.className;
    if (!name) return;
    this.classes.set(name, color);
    this.keepClasses();
    const changed = this.annotations.features.map((own) =>
      own.properties.classification?.name === name ? { ...own, properties: { ...own.properties, classification: { ...own.properties.classification, color } } } : own);
    this.drawing.selected = null;
    this.annotations.change(changed);
    this.scene.redraw();
  }

  keepClasses() {
    remember("classes", JSON.stringify([...this.classes]));
  }

  keep() {
    offer(`${this.page.doc.id}.geojson`, this.annotations.text(), "application/geo+json");
  }

  refresh() {
    if (!this.drawing) return;
    const { annotations, drawing } = this;
    for (const { properties: { classification } = {} } of annotations.features) {
      if (classification?.name && !this.classes.has(classification.name)) this.classes.set(classification.name, classification.color ?? [128, 128, 128]);
    }
    const { selected } = drawing;
    if (selected && !annotations.features.includes(selected)) drawing.selected = null;
    this.tools.replaceChildren(...TOOLS.map(([tool, name, key]) =>
      h("button", { type: "button", title: `${name} (${key.toUpperCase()})`, "aria-pressed": String(drawing.tool === tool), onclick: () => drawing.use(tool) }, name)));
    this.brushField.hidden = drawing.tool !== "brush";
    this.classField.replaceChildren(...["", ...this.classes.keys()].map((own) => h("option", { value: own }, own || "no class")));
    this.classField.value = this.className;
    this.colour.value = `#${(this.classes.get(this.className) ?? [220, 40, 40]).map((own) => own.toString(16).padStart(2, "0")).join("")}`;
    this.undo.disabled = annotations.past.length === 0;
    this.redo.disabled = annotations.future.length === 0;
    this.state.textContent = `${STATES[annotations.state]}${annotations.said && annotations.state !== "conflict" ? `: ${annotations.said}` : ""}`;
    this.state.classList.toggle("wrong", ["unsaved", "conflict", "refused"].includes(annotations.state));
    this.refreshTrouble();
    this.refreshChosen();
    this.refreshList();
    this.scene.redraw();
  }

  refreshTrouble() {
    const { annotations } = this;
    const button = (/** @type {string} */ text, /** @type {() => void} */ act) => h("button", { type: "button", onclick: act }, text);
    const parts = [];
    if (annotations.state === "conflict") {
      parts.push(h("p", {}, "These annotations were changed elsewhere (another tab, another reader) since you opened them. Nothing of theirs was overwritten, nothing of yours is lost."), h("div", { class: "buttons" },
        button("Keep both", () => annotations.merge()), button("Save mine as a file", () => this.keep()), button("Take theirs", () => annotations.takeTheirs())));
    } else if (annotations.left && annotations.state === "saved") {
      parts.push(h("p", {}, "Your last visit ended before all that you drew was saved."), h("div", { class: "buttons" },
        button("Bring it back", () => annotations.takeLeft(true)), button("Let it go", () => annotations.takeLeft(false))));
    }
    this.trouble.replaceChildren(...(parts.length ? [h("div", { class: "notice", role: "alert" }, parts)] : []));
  }

  refreshChosen() {
    const { selected } = this.drawing;
    if (!selected) {
      this.chosen.replaceChildren();
      return;
    }
    const name = h("input", { type: "text", maxlength: 200, value: selected.properties.name ?? "", autocomplete: "off" });
    name.addEventListener("change", () => {
      const { name: _, ...others } = selected.properties;
      this.drawing.put({ ...selected, properties: name.value.trim() ? { ...others, name: name.value.trim() } : others });
    });
    const isOpen = this.drawing.isOpen(selected);
    name.disabled = !isOpen;
    this.chosen.replaceChildren(
      h("h3", {}, isOpen ? "Selected" : "Selected (locked)"),
      labelled("Name", name),
      h("p", { class: "note" }, this.sizeText(selected)),
      h("button", { type: "button", disabled: !isOpen, onclick: () => this.drawing.put(null) }, "Delete"));
  }

  refreshList() {
    const { features } = this.annotations;
    const items = features.slice(0, MOST_LISTED).map((own) => {
      const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.backgroundColor = `rgb(${colourOf(own).join()})`;
      const text = own.properties.name || own.properties.classification?.name || own.geometry.type;
      return h("li", {}, h("button", { type: "button", "aria-current": String(own === this.drawing.selected), onclick: () => this.go(own) }, swatch, text, h("span", { class: "note" }, ` ${this.sizeText(own)}`)));
    });
    if (features.length > MOST_LISTED) items.push(h("li", { class: "note" }, `and ${features.length - MOST_LISTED} more on the slide`));
    this.list.replaceChildren(...items);
  }

  /** @param {Feature} feature */
  sizeText({ geometry }) {
    const um = this.page.doc.mpp / this.page.doc.l0_per_px;
    const size = sizeOf(geometry);
    return size.area ? area(size.area * um * um) : size.length ? length(size.length * um) : "";
  }

  /** Select a feature and show it. @param {Feature} feature */
  go(feature) {
    const k = this.page.doc.l0_per_px;
    const [left, top, right, bottom] = boundsOf(feature.geometry).map((own) => own / k);
    const fit = 0.6 * Math.min(this.scene.host.clientWidth / Math.max(right - left, 1), this.scene.host.clientHeight / Math.max(bottom - top, 1));
    this.scene.look((left + right) / 2, (top + bottom) / 2, Math.min(fit, 1));
    this.drawing.select(feature);
  }
}


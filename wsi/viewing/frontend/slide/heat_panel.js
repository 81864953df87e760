// What a reader chooses of the heat map, its colour bar, and how it was computed.

import { MAPS, scaleOf } from "../base/colours.js";
import { digits, h, labelled, percent, section, select } from "../base/dom.js";

/** @type {Record<string, string>} */
const GROUPS = { factor: "Attention", rank: "Attention", absolute: "Attention", push: "Direction for a class", disagreement: "Models apart" };

/** A layer's value in words. @param {{kind: string}} layer @param {number} value */
export function valueText(layer, value) {
  if (!Number.isFinite(value)) return "no value";
  if (layer.kind === "factor") return `${digits(value)} × the slide’s mean`;
  if (layer.kind === "push") return (value > 0 ? "+" : "") + digits(value);
  return digits(value);
}

export class HeatPanel {
  /** @param {import("./heat.js").Heat} heat @param {() => void} changed */
  constructor(heat, changed) {
    this.heat = heat;
    this.changed = changed;
    const { choice, scene } = heat;
    this.shown = h("input", { type: "checkbox", checked: choice.shown, onchange: () => this.set({ shown: this.shown.checked }) });
    this.layers = h("select", { onchange: () => this.setLayer(this.layers.value) }, grouped(scene.doc.layers));
    this.scale = select([["linear", "Linear"], ["log", "Logarithmic"], ["rank", "Rank within the slide"]], {
      onchange: () => this.set({ scale: /** @type {any} */ (this.scale.value) }),
    });
    this.colours = select(MAPS, { onchange: () => this.set({ colours: this.colours.value }) });
    this.opacity = slider((value) => this.set({ opacity: value }));
    this.below = slider((value) => this.set({ below: value }));
    this.opacityText = h("output");
    this.belowText = h("output");
    this.bar = h("canvas", { class: "bar", width: 256, height: 1, role: "img", "aria-label": "Colour bar" });
    this.ticks = h("div", { class: "ticks" });
    this.how = h("p", { class: "note" });
    this.coloursField = labelled("Colours", this.colours);
    this.element = section(
      "Heat map",
      true,
      h("label", { class: "check" }, this.shown, "Show the heat map ", h("kbd", {}, "H")),
      labelled("Layer", this.layers),
      h("div", { class: "pair" }, labelled("Scale", this.scale), this.coloursField),
      this.bar,
      this.ticks,
      labelled("Hide below", h("span", { class: "ranged" }, this.below, this.belowText)),
      labelled("Opacity", h("span", { class: "ranged" }, this.opacity, this.opacityText)),
      this.how,
    );
    this.refresh();
  }

  /** @param {Partial<import("./heat.js").HeatChoice>} change */
  set(change) {
    this.heat.choose(change);
    this.refresh();
    this.changed();
  }

  /** Another layer comes on the scale that it is meant for, without a threshold. @param {string} key */
  setLayer(key) {
    const layer = this.heat.scene.doc.layers.find((own) => own.key === key);
    if (layer) this.set({ key, scale: layer.scale, below: 0, shown: true });
  }

  /** The next layer, or the one before. @param {number} step */
  turn(step) {
    const { layers } = this.heat.scene.doc;
    const now = layers.findIndex((own) => own.key === this.layers.value);
    if (layers.length) this.setLayer(layers[(now + step + layers.length) % layers.length].key);
  }

  refresh() {
    const { choice } = this.heat;
    const layer = this.heat.layer();
    if (!layer) return;
    choice.key = layer.doc.key;
    this.shown.checked = choice.shown;
    this.layers.value = layer.doc.key;
    this.scale.value = choice.scale;
    this.colours.value = choice.colours;
    this.coloursField.hidden = layer.centre !== null;
    this.opacity.value = String(choice.opacity);
    this.below.value = String(choice.below);
    this.opacityText.textContent = percent(choice.opacity);
    const scale = scaleOf(layer, choice.scale);
    this.belowText.textContent = this.thresholdText(layer, scale);
    this.below.setAttribute("aria-valuetext", this.belowText.textContent);
    this.paintBar(layer.centre);
    const places = layer.centre === null ? [0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1];
    this.ticks.replaceChildren(...places.map((own) => h("span", {}, tick(layer.doc, scale.value(own)))));
    this.how.textContent = layer.doc.how;
  }

  /** @param {NonNullable<ReturnType<import("./heat.js").Heat["layer"]>>} layer @param {ReturnType<typeof scaleOf>} scale */
  thresholdText(layer, scale) {
    const { below } = this.heat.choice;
    if (below === 0) return "all shown";
    const shown = layer.values.reduce((count, own) => count + (this.heat.isShown(scale.place(own), layer.centre) ? 1 : 0), 0);
    const least = scale.value(layer.centre === null ? below : 0.5 + below / 2);
    return `${tick(layer.doc, least)}: ${shown} of ${layer.values.length} tiles shown`;
  }

  /** @param {number | null} centre */
  paintBar(centre) {
    const pen = /** @type {CanvasRenderingContext2D} */ (this.bar.getContext("2d", { willReadFrequently: true }));
    const table = this.heat.table(centre);
    const row = new ImageData(256, 1);
    for (let index = 0; index < 256; index++) {
      const alpha = this.heat.isShown(index / 255, centre) ? 255 : 40;
      row.data.set([table[3 * index], table[3 * index + 1], table[3 * index + 2], alpha], index * 4);
    }
    pen.putImageData(row, 0, 0);
  }
}

/** @param {{kind: string}} layer @param {number} value */
function tick(layer, value) {
  return layer.kind === "factor" ? `${digits(value)}×` : valueText(layer, value);
}

/** @param {(value: number) => void} changed */
function slider(changed) {
  const made = h("input", { type: "range", min: 0, max: 1, step: 0.01 });
  made.addEventListener("input", () => changed(Number(made.value)));
  return made;
}

/** @param {import("../base/documents.js").LayerDoc[]} layers */
function grouped(layers) {
  /** @type {Map<string, HTMLOptGroupElement>} */
  const groups = new Map();
  for (const layer of layers) {
    const name = GROUPS[layer.kind] ?? "Of the tile itself";
    if (!groups.has(name)) groups.set(name, h("optgroup", { label: name }));
    groups.get(name)?.append(h("option", { value: layer.key }, layer.name));
  }
  return [...groups.values()];
}

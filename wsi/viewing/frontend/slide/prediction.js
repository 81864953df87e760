// What the models say of the slide's patient, how sure they are, and where that stands among the other patients.

import { digits, h, percent, s, section } from "../base/dom.js";

/** @typedef {import("../base/documents.js").PredictionDoc} PredictionDoc */

/** @param {PredictionDoc} told */
export function predictionPart(told) {
  /** @type {(HTMLElement | null)[]} */
  const parts = [h("p", { class: "verdict" }, told.said), truth(told)];
  if (told.classes && told.kind !== "survival") parts.push(bars(told.classes, told.values));
  if (told.uncertainty) {
    const { name, value, rank } = told.uncertainty;
    parts.push(h("p", {}, `${name}: ${digits(value)}`, Number.isFinite(rank) ? `, higher than that of ${percent(rank)} of the patients` : ""));
  }
  if (told.cohort.length) parts.push(strip(told));
  parts.push(h("p", { class: "note" }, told.out_of_fold
    ? "Said by models that were trained without this patient."
    : "Said by models that may have been trained on this patient: not a fair test of them."));
  return section("Prediction", true, ...parts);
}

/** @param {PredictionDoc} told */
function truth({ label, right }) {
  if (label === null) return null;
  const said = right === null ? "" : right ? " ✓ as predicted" : " ✗ not as predicted";
  return h("p", {}, "Label given: ", h("strong", {}, label), h("span", { class: right === false ? "wrong" : "right" }, said));
}

/** @param {string[]} classes @param {number[]} values shares */
function bars(classes, values) {
  const rows = classes.map((name, index) => {
    const fill = h("span", { class: "fill" });
    fill.style.width = `${Math.min(1, Math.max(0, values[index])) * 100}%`;
    return h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "track" }, fill), h("td", { class: "n" }, percent(values[index])));
  });
  return h("table", { class: "bars" }, h("caption", { class: "unseen" }, "Probability of each class"), h("tbody", {}, rows));
}

/** Each other patient a stroke, this one a triangle: by place, not by colour alone. @param {PredictionDoc} told */
function strip(told) {
  const at = told.cohort_class === null ? 0 : Math.max(0, (told.classes ?? []).indexOf(told.cohort_class));
  const own = told.values[at];
  const isShare = told.kind === "probabilities" || told.kind === "labels";
  const all = [...told.cohort, own].filter(Number.isFinite);
  const [low, high] = isShare ? [0, 1] : [Math.min(...all), Math.max(...all)];
  const x = (/** @type {number} */ value) => 6 + (288 * (value - low)) / (high - low || 1);
  const lower = told.cohort.filter((value) => value < own).length;
  const what = told.cohort_class === null ? "The predicted value" : `The probability of ${told.cohort_class}`;
  const said = `${what} is higher than that of ${lower} of the ${told.cohort.length} other patients.`;
  const shown = isShare ? percent : digits;
  return h(
    "figure",
    { class: "strip" },
    s(
      "svg",
      { viewBox: "0 0 300 48", role: "img", "aria-label": said },
      s("line", { class: "axis", x1: 6, x2: 294, y1: 32, y2: 32 }),
      told.cohort.filter(Number.isFinite).map((value) => s("line", { class: "other", x1: x(value), x2: x(value), y1: 20, y2: 32 })),
      s("path", { class: "own", d: `M${x(own)} 19l-6 -12h12z` }),
      s("text", { x: 6, y: 45 }, shown(low)),
      s("text", { x: 294, y: 45, "text-anchor": "end" }, shown(high)),
    ),
    h("figcaption", { class: "note" }, said),
  );
}

/** @param {import("../base/documents.js").SlideDoc} doc */
export function factsPart(doc) {
  return section(
    "Slide",
    true,
    doc.warnings.length > 0 && h("ul", { class: "warnings" }, doc.warnings.map((own) => h("li", {}, own))),
    h("dl", {}, doc.facts.map(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]).flat()),
    doc.icc && !doc.icc.applied && h("p", { class: "note" }, "Colours as the scanner wrote them: its colour profile is not applied."),
  );
}

// Elements, numbers as people read them, and what a browser keeps between visits.

/** @typedef {string | number | Node | null | undefined | false} Child */

/**
 * Make an element: attributes by name, `on...` functions as listeners, booleans as present or absent.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  dress(made, attributes);
  made.append(...inner(children));
  return made;
}

/**
 * Make an SVG element, as `h` does.
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {SVGElementTagNameMap[K]}
 */
export function s(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  dress(made, attributes);
  made.append(...inner(children));
  return made;
}

/** @param {Element} made @param {Record<string, any>} attributes */
function dress(made, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") /** @type {any} */ (made)[name] = value;
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, String(value));
  }
}

/** @param {(Child | Child[])[]} children @returns {(string | Node)[]} */
function inner(children) {
  const given = children.flat().filter((own) => own !== null && own !== undefined && own !== false);
  return given.map((own) => (own instanceof Node ? own : String(own)));
}

/**
 * A select element with one option for each [value, text].
 * @param {[string, string][]} choices
 * @param {Record<string, any>} attributes
 */
export function select(choices, attributes) {
  const { value, ...others } = attributes;
  const made = h("select", others, choices.map(([own, text]) => h("option", { value: own }, text)));
  if (value !== undefined) made.value = value;
  return made;
}

/**
 * A label with its control behind it.
 * @param {string} text @param {HTMLElement} control @param {string} [kind]
 */
export function labelled(text, control, kind = "") {
  return h("label", { class: `field ${kind}` }, h("span", {}, text), control);
}

/** A part of the panel that folds. @param {string} name @param {boolean} open @param {...(Child | Child[])} children */
export function section(name, open, ...children) {
  return h("details", { open, class: "part" }, h("summary", {}, h("h2", {}, name)), h("div", { class: "inside" }, ...children));
}

/** Tell what happened, also to those who do not see it. @param {string} text @param {"note" | "fault"} [kind] */
export function say(text, kind = "note") {
  let place = document.querySelector("#said");
  if (!place) document.body.append((place = h("div", { id: "said", role: "status" })));
  place.className = kind;
  place.textContent = text;
  window.clearTimeout(saidUntil);
  if (kind === "note") saidUntil = window.setTimeout(() => place.replaceChildren(), 4000);
}
let saidUntil = 0;

/** A number with three digits that count. @param {number} value */
export function digits(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(1).replace("-", "−");
  return String(size >= 100 ? Math.round(value) : Number(value.toPrecision(3))).replace("-", "−");
}

/** A length in the unit that people would say it in. @param {number} um */
export function length(um) {
  return um < 1000 ? `${digits(um)} µm` : `${digits(um / 1000)} mm`;
}

/** An area, likewise. @param {number} um2 */
export function area(um2) {
  return um2 < 1e5 ? `${digits(um2)} µm²` : `${digits(um2 / 1e6)} mm²`;
}

/** @param {number} share */
export function percent(share) {
  const shown = share * 100;
  return `${shown > 0 && shown < 1 ? shown.toFixed(1) : shown > 99 && shown < 100 ? shown.toFixed(1) : Math.round(shown)} %`;
}

/** The largest of 1, 2, 5, 10, 20, ... that is at most a number. @param {number} most */
export function round(most) {
  const ten = 10 ** Math.floor(Math.log10(most));
  return (most >= 5 * ten ? 5 : most >= 2 * ten ? 2 : 1) * ten;
}

/** What this browser kept, or null; pages may be forbidden to keep anything. @param {string} key */
export function recall(key) {
  try {
    return localStorage.getItem(`gigamil:${key}`);
  } catch {
    return null;
  }
}

/** @param {string} key @param {string | null} value @returns {boolean} whether it was kept */
export function remember(key, value) {
  try {
    if (value === null) localStorage.removeItem(`gigamil:${key}`);
    else localStorage.setItem(`gigamil:${key}`, value);
    return true;
  } catch {
    return false;
  }
}

/** Give the reader a file. @param {string} name @param {string} text @param {string} kind */
export function offer(name, text, kind) {
  const address = URL.createObjectURL(new Blob([text], { type: kind }));
  h("a", { href: address, download: name }).click();
  window.setTimeout(() => URL.revokeObjectURL(address), 1000);
}

// The list of slides: search, filters, sorting, and the way to each slide's page.

import { digits, h, labelled, percent, select } from "../base/dom.js";
import { ReaderBar } from "../reading/reader_bar.js";

/** @typedef {import("../base/documents.js").CohortDoc} CohortDoc */
/** @typedef {import("../base/documents.js").CohortSlide} CohortSlide */
/** @typedef {import("../base/documents.js").ColumnDoc} ColumnDoc */

/** Names in the order that people expect: 2 before 10. */
const order = new Intl.Collator("en", { numeric: true });

export class CohortPage {
  /** @param {CohortDoc} doc */
  constructor(doc) {
    document.title = doc.title;
    this.doc = doc;
    const told = new URLSearchParams(location.hash.slice(1));
    const first = doc.columns.find((own) => own.sort);
    this.sorted = told.get("sort") ?? first?.key ?? "";
    this.isDown = told.has("sort") ? told.get("way") === "down" : first?.sort === "down";
    this.search = h("input", { type: "search", value: told.get("q") ?? "", autocomplete: "off", oninput: () => this.refresh() });
    this.filters = doc.columns.filter((own) => own.filter).map((column) => this.filter(column, told.get(`is-${column.key}`) ?? ""));
    this.sorting = select(
      [["", "As listed"], ["id", "Slide"], ["patient", "Patient"], ...doc.columns.map((own) => /** @type {[string, string]} */ ([own.key, own.name]))],
      { onchange: () => this.sortBy(this.sorting.value, false) },
    );
    this.count = h("p", { class: "count", role: "status" });
    this.heads = h("tr", { role: "row" });
    this.rows = h("tbody", { role: "rowgroup" });
    const table = h("table", { role: "table" }, h("caption", { class: "unseen" }, doc.title), h("thead", { role: "rowgroup" }, this.heads), this.rows);
    const bar = doc.api?.judgements ? new ReaderBar(doc.api) : null;
    document.body.append(
      h("header", { class: "list-top" }, h("h1", {}, doc.title), h("p", { class: "lead" }, doc.said)),
      h("main", { class: "list" },
        bar && bar.element,
        h("form", { class: "finder", role: "search", onsubmit: (/** @type {Event} */ event) => event.preventDefault() },
          labelled("Search", this.search), this.filters.map((own) => own.field), labelled("Sort by", this.sorting, "sorting")),
        this.count,
        h("div", { class: "scroll", role: "region", "aria-label": "Slides", tabindex: "0" }, table)),
    );
    this.lines = new Map(doc.slides.map((slide) => [slide, this.line(slide)]));
    this.refresh();
  }

  /** @param {ColumnDoc} column @param {string} value */
  filter(column, value) {
    const found = new Set(this.doc.slides.map((own) => shown(column, own.values[column.key])));
    const choices = [...found].filter((own) => own !== "").sort(order.compare);
    const choice = select([["", "all"], ...choices.map((own) => /** @type {[string, string]} */ ([own, own]))], { onchange: () => this.refresh() });
    choice.value = found.has(value) ? value : "";
    return { column, choice, field: labelled(column.name, choice) };
  }

  /** @param {string} key @param {boolean} [turn] a second press of the same head turns the order around */
  sortBy(key, turn = true) {
    const column = this.doc.columns.find((own) => own.key === key);
    if (turn && key === this.sorted) this.isDown = !this.isDown;
    else this.isDown = column ? column.sort === "down" || (column.sort === null && column.kind !== "text") : false;
    this.sorted = key;
    this.refresh();
  }

  refresh() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = this.doc.slides.filter((slide) => {
      const text = this.lines.get(slide)?.textContent?.toLowerCase() ?? "";
      return words.every((own) => text.includes(own))
        && this.filters.every(({ column, choice }) => !choice.value || shown(column, slide.values[column.key]) === choice.value);
    });
    if (this.sorted) kept.sort((a, b) => this.compare(a, b));
    this.rows.replaceChildren(...kept.map((own) => /** @type {HTMLElement} */ (this.lines.get(own))));
    this.heads.replaceChildren(
      h("th", { role: "columnheader", scope: "col", class: "thumb" }, h("span", { class: "unseen" }, "Picture")),
      this.head("id", "Slide", ""), this.head("patient", "Patient", ""), ...this.doc.columns.map((own) => this.head(own.key, own.name, side(own))),
    );
    this.sorting.value = this.sorted;
    this.count.textContent = `${kept.length} of ${this.doc.slides.length} slides`;
    this.keep();
  }

  /** The list as it is found again: in the address. */
  keep() {
    const told = new URLSearchParams();
    if (this.search.value) told.set("q", this.search.value);
    if (this.sorted) told.set("sort", this.sorted);
    if (this.isDown) told.set("way", "down");
    for (const { column, choice } of this.filters) if (choice.value) told.set(`is-${column.key}`, choice.value);
    history.replaceState(null, "", `#${told}`);
  }

  /** What is missing comes last, whichever way. @param {CohortSlide} a @param {CohortSlide} b */
  compare(a, b) {
    const [left, right] = [a, b].map((own) => (this.sorted === "id" ? own.id : this.sorted === "patient" ? own.patient : own.values[this.sorted]));
    const [gone, lost] = [left, right].map((own) => own === null || own === undefined || Number.isNaN(own));
    if (gone || lost) return Number(gone) - Number(lost) || order.compare(a.id, b.id);
    const way = typeof left === "number" && typeof right === "number" ? left - right : order.compare(String(left), String(right));
    return (this.isDown ? -way : way) || order.compare(a.id, b.id);
  }

  /** @param {string} key @param {string} name @param {string} kind */
  head(key, name, kind) {
    const isSorted = this.sorted === key;
    const sign = isSorted ? (this.isDown ? " ▼" : " ▲") : "";
    const button = h("button", { type: "button", onclick: () => { this.sortBy(key); this.focusHead(key); } }, name, h("span", { "aria-hidden": "true" }, sign));
    return h("th", { role: "columnheader", scope: "col", class: kind, "data-key": key, "aria-sort": isSorted ? (this.isDown ? "descending" : "ascending") : "none" }, button);
  }

  /** Heads are made anew: whoever pressed one by key stays there. @param {string} key */
  focusHead(key) {
    /** @type {HTMLElement | null} */ (this.heads.querySelector(`[data-key="${CSS.escape(key)}"] button`))?.focus();
  }

  /** @param {CohortSlide} slide */
  line(slide) {
    const judged = this.doc.api?.judged?.[slide.id];
    const picture = slide.thumb ? h("img", { src: slide.thumb, alt: "", loading: "lazy", width: 96, height: 72 }) : null;
    const mark = judged ? h("span", { class: "done", title: "You have judged this slide" }, " ✓ judged") : null;
    return h("tr", { role: "row" },
      h("td", { role: "cell", class: "thumb" }, picture),
      h("th", { role: "rowheader", scope: "row" }, h("a", { href: slide.href }, slide.id), mark),
      h("td", { role: "cell", "data-name": "Patient" }, slide.patient ?? "–"),
      this.doc.columns.map((own) => h("td", { role: "cell", class: side(own), "data-name": own.name }, shown(own, slide.values[own.key]) || "–")));
  }
}

/** @param {ColumnDoc} column */
function side({ kind }) {
  return kind === "number" || kind === "share" ? "n" : "";
}

/** A value as the table says it; "" where there is none. @param {ColumnDoc} column @param {unknown} value */
function shown({ kind }, value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (kind === "yesno") return value ? "yes" : "no";
  if (typeof value !== "number" || kind === "text") return String(value);
  return kind === "share" ? percent(value) : digits(value);
}

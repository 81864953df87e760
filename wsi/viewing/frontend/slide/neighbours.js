// The other slides of the page's cohort: the one before, the next, and one to show beside.

import { load } from "../base/documents.js";
import { h, say, select } from "../base/dom.js";

export class Neighbours {
  /**
   * @param {import("../base/documents.js").SlideDoc} doc
   * @param {(id: string, folder: string) => void} open show a slide beside, or none
   * @param {(linked: boolean) => void} link
   */
  constructor(doc, open, link) {
    this.doc = doc;
    this.open = open;
    /** Id and address from this page, in order. @type {[string, string][]} */
    this.all = [];
    const button = (/** @type {string} */ text, /** @type {string} */ name, /** @type {number} */ step) =>
      h("button", { type: "button", "aria-label": name, title: name, disabled: true, onclick: () => this.step(step) }, text);
    this.before = button("‹", "Slide before (PageUp)", -1);
    this.after = button("›", "Next slide (PageDown)", 1);
    this.beside = select([["", "no other slide"]], { "aria-label": "Slide beside", disabled: true, onchange: () => this.choose(this.beside.value) });
    this.linked = h("input", { type: "checkbox", checked: true, onchange: () => link(this.linked.checked) });
    this.linkField = h("label", { class: "check", hidden: true }, this.linked, "Linked");
    this.element = h("nav", { "aria-label": "Other slides" }, this.before, this.after,
      h("label", { class: "beside" }, h("span", {}, "Beside: "), this.beside), this.linkField);
    this.ready = this.list();
  }

  /** Learn which slides there are: the server says so in this document, else the index page's data file does. */
  async list() {
    const siblings = this.doc.api?.siblings;
    if (siblings) this.all = siblings;
    else {
      const folder = this.doc.home.replace(/[^/]*$/, "");
      try {
        /** @type {import("../base/documents.js").CohortDoc} */
        const cohort = await load("cohort", `${folder}cohort.js`);
        this.all = cohort.slides.map(({ id, href }) => [id, folder + href]);
      } catch {
        return; // a slide's folder that was copied alone: it has no neighbours
      }
    }
    const own = this.at();
    this.before.disabled = own <= 0;
    this.after.disabled = own < 0 || own >= this.all.length - 1;
    const others = this.all.filter(([id]) => id !== this.doc.id);
    this.beside.append(...others.map(([id]) => h("option", { value: id }, id)));
    this.beside.disabled = others.length === 0;
  }

  at() {
    return this.all.findIndex(([id]) => id === this.doc.id);
  }

  /** @param {number} by */
  step(by) {
    const next = this.all[this.at() + by];
    if (this.at() >= 0 && next) location.href = next[1];
    else say(by > 0 ? "This is the last slide." : "This is the first slide.");
  }

  /** Show a slide beside; "" none. @param {string} id */
  async choose(id) {
    await this.ready;
    const found = this.all.find(([own]) => own === id && own !== this.doc.id);
    this.beside.value = found ? id : "";
    this.linkField.hidden = !found;
    if (found || !id) this.open(id, found ? found[1].replace(/[^/]*$/, "") : "");
    else say(`There is no slide ${id} here to show beside.`);
  }
}

// Over the list of slides, where a server shows it: who reads, how far the readers are, and what to read next.

import { h, labelled, recall, remember, select } from "../base/dom.js";
import { readerForm } from "./reader.js";
import { ask } from "./server.js";

/** @typedef {{progress: Record<string, {judged: number, of: number}>, kappa: {said: string}[]}} Told */

export class ReaderBar {
  /** @param {import("../base/documents.js").CohortApi} api */
  constructor(api) {
    this.api = api;
    this.work = h("div", { class: "buttons" });
    this.told = h("div", { class: "note" });
    this.element = h("section", { class: "reading", "aria-label": "Review" }, h("h2", {}, "Review"),
      api.hidden && h("p", { class: "notice" }, api.hidden), readerForm(api), this.work, this.told);
    if (api.reader) this.list();
    this.tell();
  }

  async list() {
    if (!this.api.worklist) return;
    const kept = recall("order");
    try {
      const { body } = await ask("GET", this.api.worklist + (kept ? `?order=${encodeURIComponent(kept)}` : ""));
      const order = select(body.orders, { value: body.order });
      order.addEventListener("change", () => {
        remember("order", order.value);
        this.list();
      });
      const next = body.slides.find((/** @type {{done: boolean}} */ own) => !own.done);
      this.work.replaceChildren(labelled("Worklist", order),
        next ? h("a", { class: "button", href: next.href }, `Read next: ${next.id}`) : h("p", {}, "All slides are judged."));
    } catch (error) {
      this.work.replaceChildren(h("p", { class: "wrong" }, /** @type {Error} */ (error).message));
    }
  }

  async tell() {
    try {
      /** @type {{body: Told}} */
      const { body } = await ask("GET", this.api.judgements);
      const readers = Object.entries(body.progress).map(([name, { judged, of }]) => `${name}: ${judged} of ${of} judged`);
      this.told.replaceChildren(...[...readers, ...body.kappa.map((own) => own.said)].map((own) => h("p", {}, own)));
      if (this.api.csv && readers.length) this.told.append(h("a", { href: this.api.csv, download: true }, "Judgements as a table (CSV), for training"));
    } catch (error) {
      this.told.replaceChildren(h("p", { class: "wrong" }, /** @type {Error} */ (error).message));
    }
  }
}

// Review: what a reader holds of the prediction (or, blind, of the slide), a note, and the next slide of the worklist.

import { h, labelled, recall, remember, say, section, select } from "../base/dom.js";
import { readerForm } from "./reader.js";
import { ask } from "./server.js";

/** @typedef {{id: string, href: string, value: number | null, done: boolean, verdict: string | null}} Work */
/** @typedef {{order: string, orders: [string, string][], slides: Work[]}} Worklist */

export class Review {
  /** @param {import("../slide/slide_page.js").SlidePage} page @param {import("../base/documents.js").SlideApi} api */
  constructor(page, api) {
    this.page = page;
    this.api = api;
    /** Nothing is shown to agree with: the reader says what the slide is. */
    this.asksLabel = Boolean(api.hidden) || !page.doc.prediction;
    this.body = h("div", { class: "inside" });
    this.work = h("div", { class: "inside" });
    this.element = section("Review", true, readerForm(api), this.body, this.work);
    if (!api.reader) return;
    this.fill();
    this.list();
    this.addKeys();
  }

  fill() {
    const { judged, classes } = this.api;
    const choices = this.asksLabel ? [["label", "It is:"], ["unsure", "Unsure"]] : [["agree", "Agree"], ["disagree", "Disagree"], ["unsure", "Unsure"]];
    this.buttons = choices.map(([value, text]) => h("input", { type: "radio", name: "verdict", value, onchange: () => this.refresh() }));
    const said = judged && (this.asksLabel && judged.verdict !== "unsure" ? "label" : judged.verdict);
    for (const own of this.buttons) own.checked = own.value === said;
    this.label = classes.length
      ? select([["", "choose"], ...classes.map((own) => /** @type {[string, string]} */ ([own, own]))], { value: judged?.label ?? "" })
      : h("input", { type: "text", maxlength: 200, value: judged?.label ?? "", autocomplete: "off" });
    this.labelField = labelled(this.asksLabel ? "What it is, in your opinion" : "Corrected label", this.label);
    this.note = h("textarea", { rows: 2, maxlength: 4000 });
    this.note.value = judged?.note ?? "";
    this.done = h("p", { class: "note", role: "status" }, judged ? `You judged this slide ${judged.when.slice(0, 16).replace("T", ", ")} (UTC); you may judge it again.` : "");
    const legend = this.asksLabel ? "What is this slide?" : "Do you agree with the prediction?";
    this.body.replaceChildren(
      h("fieldset", {}, h("legend", {}, legend), choices.map(([, text], at) => h("label", { class: "check" }, this.buttons?.[at], text))),
      this.labelField, labelled("Note", this.note),
      h("div", { class: "buttons" },
        h("button", { type: "button", class: "main", onclick: () => this.save(true) }, "Save and next"),
        h("button", { type: "button", onclick: () => this.save(false) }, "Save")),
      this.done);
    this.refresh();
  }

  verdict() {
    return this.buttons?.find((own) => own.checked)?.value ?? null;
  }

  refresh() {
    if (this.labelField) this.labelField.hidden = !["label", "disagree"].includes(this.verdict() ?? "");
  }

  addKeys() {
    const choose = (/** @type {string} */ value) => {
      const button = this.buttons?.find((own) => own.value === value);
      if (!button) return;
      button.checked = true;
      this.refresh();
      button.focus();
    };
    const [yes, no] = this.asksLabel ? ["label", ""] : ["agree", "disagree"];
    this.page.keys.add("Review", [
      { keys: ["a"], shown: "A", text: this.asksLabel ? "Say what it is" : "Agree", act: () => choose(yes) },
      { keys: ["x"], shown: "X", text: this.asksLabel ? "–" : "Disagree", act: () => choose(no) },
      { keys: ["u"], shown: "U", text: "Unsure", act: () => choose("unsure") },
      { keys: ["s"], shown: "S", text: "Save and go to the next slide of the worklist", act: () => this.save(true) },
    ]);
  }

  /** @param {boolean} goesOn */
  async save(goesOn) {
    const verdict = this.verdict();
    const label = this.labelField?.hidden ? null : this.label?.value.trim() || null;
    if (!verdict) return say(this.asksLabel ? "Say what it is, or that you are unsure." : "Choose: agree, disagree or unsure.", "fault");
    if (verdict === "label" && !label) return say("Choose what it is, or unsure.", "fault");
    const body = { slide: this.page.doc.id, verdict: verdict === "label" ? null : verdict, label, note: this.note?.value.trim() || null };
    try {
      const { body: told } = await ask("POST", /** @type {string} */ (this.api.judgements), { body });
      say("Judgement saved.");
      if (this.done) this.done.textContent = `Saved ${told.judgement.when.slice(0, 16).replace("T", ", ")} (UTC).`;
      const next = goesOn && (await this.next());
      if (next) location.href = next.href;
      else if (this.api.hidden && !told.hidden) location.reload(); // the prediction may be seen now
      else await this.list();
      if (goesOn && !next) say("All slides of the worklist are judged.");
    } catch (error) {
      say(`Not saved: ${/** @type {Error} */ (error).message}`, "fault");
    }
  }

  /** @returns {Promise<Worklist | null>} */
  async worklist() {
    if (!this.api.worklist) return null;
    const order = recall("order");
    const { body } = await ask("GET", this.api.worklist + (order ? `?order=${encodeURIComponent(order)}` : ""));
    return body;
  }

  /** The next slide that is not judged, from this one on and around. */
  async next() {
    const slides = (await this.worklist())?.slides ?? [];
    const own = slides.findIndex(({ id }) => id === this.page.doc.id);
    const found = [...slides.slice(own + 1), ...slides.slice(0, Math.max(own, 0))].find(({ done }) => !done);
    return found && { ...found, href: this.address(found) };
  }

  /** The list's addresses are from the cohort's page. @param {Work} work */
  address({ href }) {
    return new URL(href, new URL(this.page.doc.home, location.href)).href;
  }

  async list() {
    /** @type {Worklist | null} */
    let told;
    try {
      told = await this.worklist();
    } catch (error) {
      this.work.replaceChildren(h("p", { class: "wrong" }, /** @type {Error} */ (error).message));
      return;
    }
    if (!told) return;
    const done = told.slides.filter((own) => own.done).length;
    const order = select(told.orders, { value: told.order });
    order.addEventListener("change", () => {
      remember("order", order.value);
      this.list();
    });
    const bar = h("progress", { max: told.slides.length, value: done, "aria-label": "Slides judged" });
    const items = told.slides.map((own) => h("li", {},
      h("a", { href: this.address(own), "aria-current": own.id === this.page.doc.id ? "page" : false }, own.id), own.done ? " ✓ judged" : ""));
    this.work.replaceChildren(
      labelled("Worklist", order), h("p", {}, `${done} of ${told.slides.length} judged`), bar,
      h("details", {}, h("summary", {}, "All slides in this order"), h("ol", { class: "worklist" }, items)));
  }
}

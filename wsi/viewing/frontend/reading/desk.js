// What a slide's page has more where a server shows it: review and annotations.

import { h, section } from "../base/dom.js";
import { AnnotationPanel } from "./annotation_panel.js";
import { Review } from "./review.js";

export class ReadingDesk {
  /** @param {import("../slide/slide_page.js").SlidePage} page @param {import("../base/documents.js").SlideApi} api */
  constructor(page, api) {
    this.panel = null;
    if (api.annotations) {
      this.panel = new AnnotationPanel(page, api.annotations);
      page.panel.prepend(this.panel.element);
    } else {
      page.panel.prepend(section("Annotations", false, h("p", { class: "note" }, "Nothing can be drawn on this slide: it lies where nothing can be saved.")));
    }
    if (api.judgements) page.panel.prepend(new Review(page, api).element);
    if (api.hidden) page.panel.prepend(h("p", { class: "notice" }, api.hidden));
  }

  /** Esc: whether there was something to stop. */
  escape() {
    return this.panel?.drawing.escape() ?? false;
  }
}

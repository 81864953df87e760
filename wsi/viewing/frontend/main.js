// The two calls that the data files make: gigamil.slide({...}) and gigamil.cohort({...}).

import { received } from "./base/documents.js";
import { h } from "./base/dom.js";
import { CohortPage } from "./cohort/cohort_page.js";
import { SlidePage } from "./slide/slide_page.js";

const VERSION = 1;

globalThis.gigamil = {
  slide: (/** @type {any} */ doc) => show("slide", doc, () => new SlidePage(doc)),
  cohort: (/** @type {any} */ doc) => show("cohort", doc, () => new CohortPage(doc)),
};

/** @param {"slide" | "cohort"} kind @param {{version: number}} doc @param {() => void} open */
function show(kind, doc, open) {
  if (received(kind, doc)) return;
  if (doc.version === VERSION) open();
  else document.body.append(h("p", { class: "notice" }, `This page's data are of version ${doc.version}, its program of version ${VERSION}: write the page again.`));
}

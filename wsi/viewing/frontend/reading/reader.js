// Who reads: a name typed once, which the server gives each judgement.

import { h, labelled } from "../base/dom.js";
import { ask } from "./server.js";

/** Ask for the name, or say it; a new name loads the page again. @param {{reader: string | null, reader_url: string}} api */
export function readerForm({ reader, reader_url: address }) {
  const name = h("input", { type: "text", maxlength: 80, required: true, autocomplete: "name", value: reader ?? "" });
  const fault = h("p", { class: "wrong", role: "alert" });
  const send = async (/** @type {string | null} */ given) => {
    try {
      await ask("PUT", address, { body: { name: given } });
      location.reload();
    } catch (error) {
      fault.textContent = /** @type {Error} */ (error).message;
    }
  };
  if (reader) {
    return h("p", { class: "reader" }, "Reading as ", h("strong", {}, reader), " ", h("button", { type: "button", onclick: () => send(null) }, "Somebody else"), fault);
  }
  const form = h("form", { class: "reader pair wide-first" }, labelled("Your name, kept with each judgement", name), h("button", { class: "main" }, "Start"), fault);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(name.value);
  });
  return form;
}

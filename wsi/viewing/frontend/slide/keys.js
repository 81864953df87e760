// The keyboard: one list that both answers keys and documents them on `?`.

import { h } from "../base/dom.js";

/** @typedef {{keys: string[], shown: string, text: string, act: (key: string, event: KeyboardEvent) => void}} Key
 * `keys` as KeyboardEvent.key has them. */

export class Keys {
  constructor() {
    /** @type {Map<string, Key[]>} */
    this.groups = new Map();
    this.dialog = h("dialog", { class: "help", "aria-labelledby": "help-name" });
    document.body.append(this.dialog);
    document.addEventListener("keydown", (event) => this.press(event));
    this.add("This page", [{ keys: ["?"], shown: "?", text: "These keys", act: () => this.help() }]);
  }

  /** @param {string} name @param {Key[]} keys */
  add(name, keys) {
    this.groups.set(name, [...(this.groups.get(name) ?? []), ...keys]);
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || this.dialog.open || !takesKeys(target, event.key)) return;
    const all = [...this.groups.values()].flat();
    const key = all.find((own) => own.keys.includes(event.key.length === 1 ? event.key.toLowerCase() : event.key));
    if (!key) return;
    event.preventDefault();
    key.act(event.key, event);
  }

  help() {
    const groups = [...this.groups].map(([name, keys]) => [
      h("h3", {}, name),
      h("dl", {}, keys.map(({ shown, text }) => [h("dt", {}, shown.split(" ").map((own) => h("kbd", {}, own))), h("dd", {}, text)]).flat()),
    ]);
    const close = h("button", { type: "button", onclick: () => this.dialog.close() }, "Close");
    this.dialog.replaceChildren(h("h2", { id: "help-name" }, "Keys"), h("div", { class: "groups" }, groups.map((own) => h("div", {}, own))), close);
    this.dialog.showModal();
  }
}

/** Whether a key pressed there is the page's: not where one types, and not where the control wants it. @param {HTMLElement} target @param {string} key */
function takesKeys(target, key) {
  const control = target.closest("input, select, textarea, button, summary, a");
  if (!control) return true;
  if (control.matches("select, textarea, input:not([type=checkbox], [type=radio], [type=range], [type=color])")) return key === "Escape";
  if (control.matches("input[type=range], input[type=radio]") && key.startsWith("Arrow")) return false;
  return key !== "Enter" && key !== " ";
}

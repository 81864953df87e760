// The slide's annotations: what is drawn, what was before (undo), and what the server has. Each change is saved at once.

import { recall, remember } from "../base/dom.js";
import { ask, Refused } from "./server.js";

/** @typedef {import("./shapes.js").Feature} Feature */
/** @typedef {"loading" | "saved" | "saving" | "unsaved" | "conflict" | "refused"} State */

const RETRY_MS = 3000;

export class Annotations {
  /** @param {string} address @param {string} id the slide's @param {() => void} changed */
  constructor(address, id, changed) {
    this.address = address;
    this.key = `unsaved:${id}`;
    this.changed = changed;
    /** @type {Feature[]} */
    this.features = [];
    /** As the server last had them from us, or gave them. @type {Feature[]} */
    this.base = [];
    /** The collection's other members, kept as they came. @type {Record<string, any>} */
    this.frame = { type: "FeatureCollection" };
    /** @type {Feature[][]} */
    this.past = [];
    /** @type {Feature[][]} */
    this.future = [];
    this.etag = "";
    /** @type {State} */
    this.state = "loading";
    this.said = "";
    /** What was changed elsewhere, where that was. @type {Feature[] | null} */
    this.theirs = null;
    /** What an earlier visit could not save. @type {{base: Feature[], features: Feature[]} | null} */
    this.left = parsed(recall(this.key));
    window.addEventListener("beforeunload", (event) => {
      if (this.state !== "saved" && this.features !== this.base) event.preventDefault();
    });
  }

  async load() {
    try {
      this.take(await this.fetch());
      this.tell("saved", "");
    } catch (error) {
      this.tell("refused", /** @type {Error} */ (error).message);
    }
  }

  async fetch() {
    const { body, etag } = await ask("GET", this.address);
    return { body, etag };
  }

  /** @param {{body: any, etag: string}} given */
  take({ body, etag }) {
    const { features, ...frame } = body;
    this.frame = frame;
    this.etag = etag;
    this.base = this.features = features;
  }

  /** @param {State} state @param {string} said */
  tell(state, said) {
    this.state = state;
    this.said = said;
    this.changed();
  }

  /** Put other features in place of those that are. @param {Feature[]} features */
  change(features) {
    this.past.push(this.features);
    this.future = [];
    this.set(features);
  }

  /** @param {Feature} feature */
  add(feature) {
    this.change([...this.features, feature]);
  }

  /** @param {Feature} old @param {Feature | null} now null: it goes */
  replace(old, now) {
    this.change(this.features.flatMap((own) => (own !== old ? [own] : now ? [now] : [])));
  }

  undo() {
    const before = this.past.pop();
    if (!before) return;
    this.future.push(this.features);
    this.set(before);
  }

  redo() {
    const after = this.future.pop();
    if (!after) return;
    this.past.push(this.features);
    this.set(after);
  }

  /** @param {Feature[]} features */
  set(features) {
    this.features = features;
    remember(this.key, JSON.stringify({ base: this.base, features })); // until the server has it: a crash loses nothing
    if (this.state !== "conflict") this.save();
    this.changed();
  }

  /** One request at a time; what changes meanwhile goes with the next. */
  async save() {
    window.clearTimeout(this.again);
    if (this.state === "saving") return;
    this.tell("saving", "");
    const sent = this.features;
    try {
      const body = { ...this.frame, features: sent };
      const { etag } = await ask("PUT", this.address, { body, kind: "application/geo+json", headers: { "If-Match": this.etag } });
      this.etag = etag;
      this.base = sent;
      this.tell("saved", "");
      if (this.features === sent) remember(this.key, null);
      else this.save();
    } catch (error) {
      await this.refused(/** @type {Refused} */ (error));
    }
  }

  /** @param {Refused} error */
  async refused(error) {
    if (error.status === 412) {
      try {
        const { body, etag } = await this.fetch();
        this.theirs = body.features;
        this.etag = etag;
        this.tell("conflict", error.message);
        return;
      } catch (second) {
        error = /** @type {Refused} */ (second);
      }
    }
    const passes = error.status === 0 || error.status === 409 || error.status >= 500;
    this.tell(passes ? "unsaved" : "refused", error.message);
    if (passes) this.again = window.setTimeout(() => this.save(), RETRY_MS);
  }

  /** After a conflict: both versions together, saved. */
  merge() {
    this.settle(merged(this.base, this.features, this.theirs ?? []));
  }

  /** After a conflict: the other version; ours can be had back by undo. */
  takeTheirs() {
    /** @type {Feature[]} */
    const theirs = this.theirs ?? [];
    this.past.push(this.features);
    this.future = [];
    this.base = this.features = theirs;
    this.theirs = null;
    remember(this.key, null);
    this.tell("saved", "");
  }

  /** @param {Feature[]} features */
  settle(features) {
    this.base = this.theirs ?? this.base;
    this.theirs = null;
    this.state = "saved";
    this.change(features);
  }

  /** What an earlier visit could not save: bring it in, or let it go. @param {boolean} wanted */
  takeLeft(wanted) {
    const { left } = this;
    this.left = null;
    if (wanted && left) this.change(merged(left.base, left.features, this.features));
    else {
      remember(this.key, null);
      this.changed();
    }
  }

  /** The file as it would be saved now. */
  text() {
    return JSON.stringify({ ...this.frame, features: this.features });
  }
}

/** @param {string | null} text */
function parsed(text) {
  try {
    const told = JSON.parse(text ?? "null");
    return Array.isArray(told?.features) && Array.isArray(told?.base) ? told : null;
  } catch {
    return null;
  }
}

/**
 * Our changes since a common base, brought into theirs. Where both changed one feature, both stay: ours under a new id.
 * @param {Feature[]} base
 * @param {Feature[]} ours
 * @param {Feature[]} theirs
 * @returns {Feature[]}
 */
export function merged(base, ours, theirs) {
  const said = (/** @type {Feature | undefined} */ own) => JSON.stringify(own);
  const by = (/** @type {Feature[]} */ list) => new Map(list.map((own) => [own.id, own]));
  const [old, mine, other] = [by(base), by(ours), by(theirs)];
  const kept = theirs.flatMap((own) => {
    const [before, now] = [old.get(own.id), mine.get(own.id)];
    const isTheirs = said(own) !== said(before);
    if (before && !now) return isTheirs ? [own] : []; // we took it away, and they left it as it was
    if (!now || said(now) === said(before) || said(now) === said(own)) return [own];
    return isTheirs ? [own, { ...now, id: uuid() }] : [now];
  });
  const added = ours.filter((own) => !other.has(own.id) && said(own) !== said(old.get(own.id)));
  return [...kept, ...added];
}

/** A random UUID; `crypto.randomUUID` is missing where a page came by plain http from another machine. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((own) => own.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

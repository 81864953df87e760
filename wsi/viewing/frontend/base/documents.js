// What slide.js and cohort.js tell, and how their packed numbers are read.

/**
 * @typedef {{key: string, name: string, kind: string, class: string | null, values: string, low: number, high: number,
 *   centre: number | null, scale: "linear" | "log", how: string}} LayerDoc
 * @typedef {{classes: string[] | null, values: number[], kind: "probabilities" | "labels" | "value" | "survival",
 *   said: string, uncertainty: {name: string, value: number, rank: number} | null, label: string | null,
 *   right: boolean | null, out_of_fold: boolean, cohort: number[], cohort_class: string | null}} PredictionDoc
 * @typedef {{slide: string, reader: string, verdict: string | null, label: string | null, note: string | null,
 *   when: string}} Judgement
 * @typedef {{annotations: string | null, judgements: string | null, reader: string | null, reader_url: string,
 *   blind: boolean, hidden: string | null, classes: string[], siblings: [string, string][], worklist: string | null,
 *   judged: Judgement | null}} SlideApi
 * @typedef {{version: number, id: string, patient: string | null, title: string, width: number, height: number,
 *   levels: [number, number][], factors: number[], tile_px: number, mpp: number, l0_per_px: number, background: [number, number, number],
 *   present: string[], outline: [number, number][][], places: string, n: number, store_tile_px: number,
 *   layers: LayerDoc[], top: number[], bottom: number[], prediction: PredictionDoc | null, facts: [string, string][],
 *   warnings: string[], icc: {applied: boolean} | null, home: string, api?: SlideApi}} SlideDoc
 * @typedef {{key: string, name: string, kind: "text" | "number" | "share" | "yesno", sort: "up" | "down" | null,
 *   filter: boolean}} ColumnDoc
 * @typedef {{id: string, patient: string | null, href: string, thumb: string | null, values: Record<string, any>}} CohortSlide
 * @typedef {{judgements: string, reader: string | null, reader_url: string, blind: boolean, classes: string[],
 *   worklist: string | null, csv: string | null, hidden: string | null, judged: Record<string, Judgement>}} CohortApi
 * @typedef {{version: number, title: string, said: string, columns: ColumnDoc[], slides: CohortSlide[], api?: CohortApi}} CohortDoc
 */

/** @type {Record<string, ((doc: any) => void)[]>} */
const waiting = { slide: [], cohort: [] };

/** Give a document to whoever loads one; false where nobody does. @param {"slide" | "cohort"} kind @param {any} doc */
export function received(kind, doc) {
  const taker = waiting[kind].shift();
  taker?.(doc);
  return Boolean(taker);
}

/**
 * Load another data file, one after the other: a page opened from a folder has no other way than a script.
 * @param {"slide" | "cohort"} kind
 * @param {string} address
 * @returns {Promise<any>}
 */
export function load(kind, address) {
  const one = () =>
    new Promise((give, fail) => {
      waiting[kind] = [give];
      const script = document.createElement("script");
      script.src = address;
      script.onload = () => script.remove();
      script.onerror = () => fail(new Error(`${address} cannot be read`));
      document.head.append(script);
    });
  queue = queue.then(one, one);
  return queue;
}
/** @type {Promise<any>} */
let queue = Promise.resolve();

/** @param {string} packed base64 */
function bytes(packed) {
  return Uint8Array.from(atob(packed), (own) => own.charCodeAt(0));
}

/** float32, little-endian whatever the machine. @param {string} packed @returns {Float32Array} */
export function floats(packed) {
  const view = new DataView(bytes(packed).buffer);
  return Float32Array.from({ length: view.byteLength / 4 }, (_, index) => view.getFloat32(index * 4, true));
}

/** int32, likewise. @param {string} packed @returns {Int32Array} */
export function integers(packed) {
  const view = new DataView(bytes(packed).buffer);
  return Int32Array.from({ length: view.byteLength / 4 }, (_, index) => view.getInt32(index * 4, true));
}

/** Bits as numpy packs them, lowest first; a function of the index. @param {string} packed */
export function bits(packed) {
  const all = bytes(packed);
  return (/** @type {number} */ index) => ((all[index >> 3] >> (index & 7)) & 1) === 1;
}

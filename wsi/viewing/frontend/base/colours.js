// Colour maps that colour-blind readers can tell apart, and where on them a value lies.

/** Evenly spaced colours of matplotlib's maps; `diverging` is its blue (RdBu) and its orange (PuOr). @type {Record<string, string>} */
const SAMPLES = {
  viridis: "440154 481f70 443983 3b528b 31688e 287c8e 21918c 20a486 35b779 5ec962 90d743 c8e020 fde725",
  magma: "000004 100b2d 2c115f 51127c 721f81 932b80 b73779 d8456c f1605d fc8961 feb078 fed799 fcfdbf",
  cividis: "00224e 003170 2a3f6d 434e6c 575d6d 6a6c71 7d7c78 918b78 a59c74 bcae6c d2c060 e9d34e fee838",
  grey: "000000 ffffff",
  diverging: "08306b 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fee0b6 fdb863 e08214 b35806 7f3b08",
};

/** What a reader may choose for a layer without a centre. @type {[string, string][]} */
export const MAPS = [["viridis", "Viridis"], ["magma", "Magma"], ["cividis", "Cividis"], ["grey", "Grey"]];

/** 256 colours of a map, r, g, b one after the other. @param {string} name @returns {Uint8Array} */
export function colours(name) {
  const known = (SAMPLES[name] ?? SAMPLES.viridis).split(" ").map((own) => [0, 2, 4].map((at) => parseInt(own.slice(at, at + 2), 16)));
  const table = new Uint8Array(256 * 3);
  for (let index = 0; index < 256; index++) {
    const place = (index / 255) * (known.length - 1);
    const left = Math.min(Math.floor(place), known.length - 2);
    for (let c = 0; c < 3; c++) {
      table[index * 3 + c] = Math.round(known[left][c] + (known[left + 1][c] - known[left][c]) * (place - left));
    }
  }
  return table;
}

/** @typedef {"linear" | "log" | "rank"} ScaleName */
/** @typedef {{low: number, high: number, centre: number | null, values: Float32Array}} Ranged */

/**
 * Both ways between a layer's values and places 0 to 1 on its colour bar; where it has a centre, that lies at 0.5 and
 * equal distances on both sides get equal strength.
 * @param {Ranged} layer
 * @param {ScaleName} name
 * @returns {{place: (value: number) => number, value: (place: number) => number}}
 */
export function scaleOf(layer, name) {
  if (name === "rank") return rankScale(layer);
  const positive = layer.values.filter((own) => own > 0);
  const isLog = name === "log" && positive.length > 0 && (layer.centre === null || layer.centre > 0);
  const floor = isLog ? positive.reduce((least, own) => Math.min(least, own)) : 0;
  const bent = isLog ? (/** @type {number} */ own) => Math.log(Math.max(own, floor)) : (/** @type {number} */ own) => own;
  const straight = isLog ? Math.exp : (/** @type {number} */ own) => own;
  let [low, high] = [bent(layer.low), bent(layer.high)];
  if (layer.centre !== null) {
    const centre = bent(layer.centre);
    const reach = Math.max(high - centre, centre - low);
    [low, high] = [centre - reach, centre + reach];
  }
  const width = high - low || 1;
  return {
    place: (value) => (Number.isFinite(value) ? Math.min(1, Math.max(0, (bent(value) - low) / width)) : NaN),
    value: (place) => straight(low + place * width),
  };
}

/** Places by order among the slide's own tiles; around a centre, by order of the distance from it. @param {Ranged} layer */
function rankScale({ values, centre }) {
  const from = centre === null ? values : values.map((own) => Math.abs(own - centre));
  const sorted = from.filter(Number.isFinite).sort();
  const last = Math.max(sorted.length - 1, 1);
  const share = (/** @type {number} */ value) => (between(sorted, value, true) + between(sorted, value, false) - 1) / 2 / last;
  const at = (/** @type {number} */ own) => sorted[Math.round(Math.min(1, Math.max(0, own)) * (sorted.length - 1))] ?? NaN;
  if (centre === null) {
    return { place: (/** @type {number} */ value) => (Number.isFinite(value) ? Math.max(0, share(value)) : NaN), value: at };
  }
  return {
    place: (/** @type {number} */ value) =>
      Number.isFinite(value) ? 0.5 + (Math.sign(value - centre) * Math.max(0, share(Math.abs(value - centre)))) / 2 : NaN,
    value: (/** @type {number} */ place) => centre + Math.sign(place - 0.5) * at(Math.abs(place - 0.5) * 2),
  };
}

/** How many of sorted numbers are smaller (or, not `strict`, at most that). @param {Float32Array} sorted @param {number} value @param {boolean} strict */
function between(sorted, value, strict) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (strict ? sorted[middle] < value : sorted[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The part of an address behind `#`: a view that opens again as it was.

/**
 * @typedef {{at?: [number, number, number], heat?: string, scale?: string, colours?: string, opacity?: number,
 *   below?: number, outline?: boolean, beside?: string}} View
 * `at`: x and y of the middle in px of displayed level 0, and screen px per such px.
 */

/** @param {string} hash @returns {View} */
export function readLink(hash) {
  const told = new URLSearchParams(hash.replace(/^#/, ""));
  /** @type {View} */
  const view = {};
  const at = (told.get("at") ?? "").split(",").map(Number);
  if (at.length === 3 && at.every(Number.isFinite) && at[2] > 0) view.at = [at[0], at[1], at[2]];
  for (const name of /** @type {const} */ (["heat", "scale", "colours", "beside"])) {
    const value = told.get(name);
    if (value !== null) view[name] = value;
  }
  for (const name of /** @type {const} */ (["opacity", "below"])) {
    const value = Number(told.get(name) ?? NaN);
    if (value >= 0 && value <= 1) view[name] = value;
  }
  if (told.has("outline")) view.outline = told.get("outline") === "1";
  return view;
}

/** @param {View} view */
export function writeLink(view) {
  const told = new URLSearchParams();
  if (view.at) told.set("at", [Math.round(view.at[0]), Math.round(view.at[1]), Number(view.at[2].toPrecision(4))].join());
  for (const name of /** @type {const} */ (["heat", "scale", "colours", "beside", "opacity", "below"])) {
    if (view[name] !== undefined && view[name] !== "") told.set(name, String(view[name]));
  }
  if (view.outline !== undefined) told.set("outline", view.outline ? "1" : "0");
  return `#${told.toString().replaceAll("%2C", ",")}`;
}

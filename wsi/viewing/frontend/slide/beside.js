// A second slide beside the first, their views linked in um, so that slides of other um/px match.

import { load } from "../base/documents.js";
import { h, say } from "../base/dom.js";
import { Heat } from "./heat.js";
import { scaleBar } from "./measure.js";
import { Scene } from "./scene.js";

export class Beside {
  /** @param {Scene} first @param {Heat} heat @param {HTMLElement} frame @param {() => void} changed */
  constructor(first, heat, frame, changed) {
    this.first = first;
    this.heat = heat;
    this.frame = frame;
    this.changed = changed;
    /** @type {Scene | null} */
    this.second = null;
    this.shown = "";
    this.isLinked = true;
    /** From a middle of the first to the second's, um. */
    this.offset = [0, 0];
    this.isFollowing = false;
    this.said = "";
    first.painters.push(() => this.follow(first, this.second));
    first.painters.push(() => this.repaint());
  }

  /** @param {string} id @param {string} folder its page's, from this page, with the last slash; "" closes */
  async open(id, folder) {
    this.close();
    if (!folder) return;
    this.shown = id;
    /** @type {import("../base/documents.js").SlideDoc} */
    let doc;
    try {
      doc = await load("slide", `${folder}slide.js`);
    } catch (error) {
      this.shown = "";
      say(`Slide ${id} cannot be shown: ${/** @type {Error} */ (error).message}`, "fault");
      return;
    }
    if (this.shown !== id) return;
    const host = h("div", { class: "viewer" });
    const name = h("p", { class: "name" }, doc.title);
    this.pane = h("div", { class: "pane" }, host, name);
    this.frame.append(this.pane);
    this.frame.classList.add("two");
    const scene = new Scene(doc, host, folder);
    this.pane.append(scaleBar(scene));
    new Heat(scene, this.heat.choice);
    scene.viewer.addOnceHandler("open", () => {
      this.second = scene;
      const [x, y, scale] = this.first.where();
      scene.look(doc.width / 2, doc.height / 2, (scale * doc.mpp) / this.first.doc.mpp, true);
      this.offset = [(doc.width / 2) * doc.mpp - x * this.first.doc.mpp, (doc.height / 2) * doc.mpp - y * this.first.doc.mpp];
      scene.painters.push(() => this.follow(scene, this.first));
    });
    this.changed();
  }

  /** The second's heat map follows the first's choices. */
  repaint() {
    const said = JSON.stringify(this.heat.choice);
    if (said === this.said) return;
    this.said = said;
    this.second?.redraw();
  }

  close() {
    this.second?.close();
    this.second = null;
    this.pane?.remove();
    this.frame.classList.remove("two");
    this.shown = "";
    this.changed();
  }

  /** Link or part; linked again, the places now seen correspond. @param {boolean} linked */
  link(linked) {
    this.isLinked = linked;
    if (!linked || !this.second) return;
    const [[x, y], [u, v]] = [this.first.where(), this.second.where()];
    this.offset = [u * this.second.doc.mpp - x * this.first.doc.mpp, v * this.second.doc.mpp - y * this.first.doc.mpp];
    this.follow(this.first, this.second);
  }

  /** Let the other look where one looks; the one that is driven does not drive. @param {Scene} leader @param {Scene | null} led */
  follow(leader, led) {
    if (!this.isLinked || !led || !this.second || this.isFollowing) return;
    const sign = leader === this.first ? 1 : -1;
    const [x, y, scale] = leader.where();
    const um = [x * leader.doc.mpp + sign * this.offset[0], y * leader.doc.mpp + sign * this.offset[1]];
    const goal = [um[0] / led.doc.mpp, um[1] / led.doc.mpp, (scale * led.doc.mpp) / leader.doc.mpp];
    const now = led.where();
    if (Math.abs(goal[0] - now[0]) * now[2] < 0.5 && Math.abs(goal[1] - now[1]) * now[2] < 0.5 && Math.abs(goal[2] / now[2] - 1) < 1e-3) return;
    this.isFollowing = true;
    led.aim(goal[0], goal[1], goal[2]);
    this.isFollowing = false;
  }
}

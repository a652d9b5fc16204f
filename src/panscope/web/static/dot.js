// The feature of a map that is pointed at: a link that lies over it, moved by pointer or arrow keys.
import { address } from "./address.js";
import { ask } from "./ask.js";
import { density, number } from "./numbers.js";
import { element } from "./page.js";
import { visible } from "./strip.js";

const CELL = 12; // px of the grid in which the nearest point is looked for
const STEP = 3; // px that an arrow key moves at least
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const cellOf = (x, y) => Math.floor(x / CELL) * 4096 + Math.floor(y / CELL);

export class Dot {
  // `map` has the points, and their places in px in `left` and `top`.
  constructor(map) {
    this.map = map;
    this.link = element("a", { className: "dot" });
    this.heard = element("p", { className: "sr" }); // a focused link that is renamed is not read out
    this.heard.setAttribute("aria-live", "polite");
    this.link.addEventListener("keydown", (event) => this.onKey(event));
    this.link.addEventListener("focus", () => this.point(this.at));
    this.link.addEventListener("blur", () => this.point(null));
  }

  // The points have new places: sort them into the grid; the first stop is the densest feature.
  lay() {
    const { left, top, points } = this.map;
    this.grid = new Map();
    for (let i = 0; i < left.length; i++) {
      const key = cellOf(left[i], top[i]);
      if (this.grid.has(key)) this.grid.get(key).push(i);
      else this.grid.set(key, [i]);
    }
    this.at ??= points.logs.reduce((best, log, i) => (log > points.logs[best] ? i : best), 0);
    this.put(this.at);
  }

  nearest(x, y) {
    const { left, top } = this.map;
    let [best, least] = [null, CELL * CELL];
    for (const dx of [-CELL, 0, CELL]) {
      for (const dy of [-CELL, 0, CELL]) {
        for (const i of this.grid.get(cellOf(x + dx, y + dy)) ?? []) {
          const distance = (left[i] - x) ** 2 + (top[i] - y) ** 2;
          if (distance < least) [best, least] = [i, distance];
        }
      }
    }
    return best;
  }

  // The nearest point in a quarter of the plane, or where we are if that is empty.
  beyond([dx, dy]) {
    const { left, top } = this.map;
    let [best, least] = [this.at, Infinity];
    for (let i = 0; i < left.length; i++) {
      const [x, y] = [left[i] - left[this.at], top[i] - top[this.at]];
      const along = x * dx + y * dy;
      const distance = x * x + y * y;
      if (along >= STEP && distance <= 2 * along * along && distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  onKey(event) {
    const arrow = ARROWS[event.key];
    if (!arrow) return;
    event.preventDefault();
    this.point(this.beyond(arrow));
  }

  // Lie over a point, or over none; what the feature fires on is asked for once the pointer rests.
  point(i) {
    if (this.pointed === i) return;
    this.pointed = i;
    clearTimeout(this.resting);
    this.link.classList.toggle("on", i !== null);
    if (i === null) return this.link.dispatchEvent(new PointerEvent("pointerout", { bubbles: true }));
    this.put(i);
    this.say("");
    return (this.resting = setTimeout(() => this.name(i), 80));
  }

  put(i) {
    const { sae, left, top, points } = this.map;
    this.at = i;
    this.link.href = address(`/sae/${sae}/${points.indices[i]}`);
    this.link.textContent = `Feature ${points.indices[i]} on the map; arrow keys go on to others`;
    this.link.style.transform = `translate(${left[i] - 6}px, ${top[i] - 6}px)`;
  }

  say(more) {
    const log = this.map.points.logs[this.at];
    const text = `feature ${this.map.points.indices[this.at]}\n${log === -Infinity ? "dead" : `density ${density(10 ** log)}`}${more}`;
    this.link.dataset.tip = text;
    if (document.activeElement === this.link) this.heard.textContent = text;
    this.link.dispatchEvent(new PointerEvent("pointerover", { bubbles: true })); // the tooltip says it too
  }

  async name(i) {
    const { sae, points } = this.map;
    const [x, y] = [points.xs[i], points.ys[i]];
    const query = new URLSearchParams({ left: x, right: x, bottom: y, top: y, alive: false });
    try {
      const { rows, pieces } = await ask(`/api/sae/${sae}/features?${query}`, null, "point");
      const row = rows.find((one) => one.index === points.indices[i]);
      if (row?.peak_tokens.length && this.pointed === i) this.say(`\nmax ${number(row.max)}\nfires most on ${row.peak_tokens.map((id) => visible(pieces[id])).join(" ")}`);
    } catch (error) {
      if (error.name !== "AbortError") this.say(`\n${error.message}`);
    }
  }
}

// A list of any length: only the rows in view exist, and are asked for a block at a time.
const BLOCK = 100;
const SPARE = 8; // rows drawn beyond either end, so that a fast wheel meets rows and not blanks

export class Rows {
  // `load(offset, limit)` promises {total, rows}; `render(row)` makes an anchor; `skeleton()` stands in.
  constructor(body, { load, render, skeleton, failed }) {
    Object.assign(this, { body, load, render, skeleton, failed });
    this.space = document.createElement("div");
    this.space.setAttribute("role", "presentation");
    body.append(this.space);
    this.marked = -1;
    this.version = 0;
    body.addEventListener("scroll", () => requestAnimationFrame(() => this.draw()), { passive: true });
    new ResizeObserver(() => this.draw()).observe(body);
  }

  // Start again from the top, after the query has changed.
  reset() {
    this.version += 1;
    this.blocks = new Map();
    this.shown = new Map();
    this.total = 0;
    this.marked = -1;
    this.space.replaceChildren();
    this.body.scrollTop = 0;
    return this.fetch(0);
  }

  get rowHeight() {
    return matchMedia("(max-width: 640px)").matches ? 58 : 32;
  }

  async fetch(block) {
    const version = this.version;
    this.blocks.set(block, null);
    try {
      const page = await this.load(block * BLOCK, BLOCK);
      if (version !== this.version) return;
      this.total = page.total;
      this.blocks.set(block, page);
      this.draw(block);
    } catch (error) {
      this.blocks.delete(block);
      this.failed(error);
    }
  }

  draw(fresh = null) {
    if (!this.blocks) return;
    const height = this.rowHeight;
    this.space.style.height = `${this.total * height}px`;
    const first = Math.max(0, Math.floor(this.body.scrollTop / height) - SPARE);
    const last = Math.min(this.total, Math.ceil((this.body.scrollTop + this.body.clientHeight) / height) + SPARE);
    for (const [place, made] of this.shown) {
      const block = Math.floor(place / BLOCK);
      if (place < first || place >= last || block === fresh || made.height !== height) {
        made.element.remove();
        this.shown.delete(place);
      }
    }
    for (let place = first; place < last; place++) if (!this.shown.has(place)) this.drawRow(place, height);
  }

  drawRow(place, height) {
    const block = Math.floor(place / BLOCK);
    if (!this.blocks.has(block)) this.fetch(block);
    const page = this.blocks.get(block);
    const element = page ? this.render(page.rows[place % BLOCK], page) : this.skeleton();
    element.style.top = `${place * height}px`;
    element.setAttribute("aria-rowindex", place + 2);
    element.classList.toggle("marked", place === this.marked);
    this.shown.set(place, { element, height });
    this.space.append(element);
  }

  mark(by) {
    if (!this.total) return;
    this.shown.get(this.marked)?.element.classList.remove("marked");
    this.marked = Math.min(Math.max(this.marked + by, 0), this.total - 1);
    const top = this.marked * this.rowHeight;
    const { scrollTop, clientHeight } = this.body;
    if (top < scrollTop) this.body.scrollTop = top;
    else if (top + this.rowHeight > scrollTop + clientHeight) this.body.scrollTop = top + this.rowHeight - clientHeight;
    this.draw();
    this.shown.get(this.marked)?.element.classList.add("marked");
  }

  open() {
    this.shown.get(this.marked)?.element.querySelector("a")?.click();
  }
}

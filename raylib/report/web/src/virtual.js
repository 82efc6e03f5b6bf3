// A grid or list of any length of which only the visible part is in the page.

import { onFrame } from "./dom.js";

/**
 * Shows `count` tiles in `host`, whose width gives the number of columns; the window scrolls.
 *
 * layout(width) returns {columns, height, gap} in pixels; make() an empty tile; fill(tile, index) puts an entry into
 * it. Tiles are reused, so that fill must set everything.
 */
export class VirtualGrid {
  constructor(host, { layout, make, fill }) {
    Object.assign(this, { host, layout, make, fill, count: 0, tiles: new Map(), spare: [] });
    host.classList.add("virtual");
    this.draw = this.draw.bind(this);
    const soon = onFrame(this.draw);
    addEventListener("scroll", soon, { passive: true });
    new ResizeObserver(soon).observe(host);
  }

  /** Shows other entries, from the first on. */
  reset(count) {
    this.count = count;
    for (const tile of this.tiles.values()) this.#put(tile);
    this.tiles.clear();
    this.draw();
  }

  /** Scrolls an entry into view. */
  reveal(index) {
    const { columns, height, gap } = this.layout(this.host.clientWidth);
    const top = this.host.getBoundingClientRect().top + scrollY + Math.floor(index / columns) * (height + gap);
    if (top < scrollY || top + height > scrollY + innerHeight) scrollTo(0, top - innerHeight / 3);
  }

  draw() {
    const width = this.host.clientWidth;
    if (!width) return; // another tab is shown
    const { columns, height, gap } = this.layout(width);
    const step = height + gap;
    const rows = Math.ceil(this.count / columns);
    this.host.style.height = `${Math.max(0, rows * step - gap)}px`;
    const top = -this.host.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / step) - 1) * columns;
    const last = Math.min(this.count, Math.ceil((top + innerHeight) / step + 1) * columns);
    for (const [index, tile] of this.tiles) {
      if (index < first || index >= last) {
        this.#put(tile);
        this.tiles.delete(index);
      }
    }
    const tileWidth = (width - gap * (columns - 1)) / columns;
    for (let index = last - 1; index >= first; index--) {
      let tile = this.tiles.get(index);
      if (!tile) {
        tile = this.spare.pop() ?? this.make();
        tile.hidden = false;
        // In the order of the entries, which is that of the tab key.
        this.host.insertBefore(tile, this.tiles.get(index + 1) ?? null);
        this.tiles.set(index, tile);
        this.fill(tile, index);
      }
      const x = (index % columns) * (tileWidth + gap);
      tile.style.transform = `translate(${x}px, ${Math.floor(index / columns) * step}px)`;
      tile.style.width = `${tileWidth}px`;
      tile.style.height = `${height}px`;
    }
  }

  #put(tile) {
    tile.hidden = true;
    this.spare.push(tile);
  }
}

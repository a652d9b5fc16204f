// A map of a Sae's features by their decoder directions, on a canvas: 65,536 points in some 20 ms.
//
// Pointing finds the nearest feature and puts a link over it; dragging chooses a box, which the list
// beside it then keeps to. For the keyboard and the screen reader the list is the way.
import { address } from "./address.js";
import { ask } from "./ask.js";
import { onWidth } from "./axes.js";
import { count, density, number } from "./numbers.js";
import { element } from "./page.js";
import { visible } from "./strip.js";

const HEIGHT = 340;
const MARGIN = 8;
const CELL = 12; // px of the grid in which the nearest point is looked for
const SHADES = 5;

// `onBox` is told the box that was dragged, {left, right, bottom, top} in the map's units, or null.
export async function drawMap(host, sae, onBox) {
  const points = await read(`/api/sae/${sae}/map`);
  const map = { host, sae, points, box: null, shades: shades(points.logs) };
  const canvas = element("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Map of ${count(points.logs.length)} features; the list beside it holds the same features`);
  const dot = element("a", { className: "dot", tabIndex: -1, hidden: true });
  const frame = element("div", { className: "frame", hidden: true });
  const sheet = element("div", { className: "sheet" }, canvas, frame, dot);
  Object.assign(map, { canvas, dot, frame });
  onWidth(host, (width) => {
    lay(map, width);
    paint(map);
    return sheet;
  });
  followPointer(map, sheet, onBox);
  new MutationObserver(() => paint(map)).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => paint(map));
  return (box) => {
    map.box = box;
    paint(map);
  };
}

// Three columns of float32, one after another: x, y, and log10 of the density.
async function read(path) {
  const answer = await fetch(address(path));
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  const all = new Float32Array(await answer.arrayBuffer());
  const n = all.length / 3;
  return { xs: all.subarray(0, n), ys: all.subarray(n, 2 * n), logs: all.subarray(2 * n) };
}

// Which shade of grey each point has, by rank of density: the dead are palest.
function shades(logs) {
  const alive = logs.filter((value) => value > -Infinity).sort();
  const edges = Array.from({ length: SHADES - 1 }, (_, i) => alive[Math.floor(((i + 1) * alive.length) / SHADES)]);
  return Uint8Array.from(logs, (value) => (value === -Infinity ? 0 : 1 + edges.filter((edge) => value >= edge).length));
}

// Places on the canvas in px, at one scale for both axes, and a grid to look them up by.
function lay(map, width) {
  const { xs, ys } = map.points;
  const [left, right] = range(xs);
  const [bottom, top] = range(ys);
  const scale = Math.min((width - 2 * MARGIN) / (right - left || 1), (HEIGHT - 2 * MARGIN) / (top - bottom || 1));
  const [x0, y0] = [(width - scale * (right - left)) / 2, (HEIGHT + scale * (top - bottom)) / 2];
  map.toX = (x) => x0 + scale * (x - left);
  map.toY = (y) => y0 - scale * (y - bottom);
  map.fromX = (px) => (px - x0) / scale + left;
  map.fromY = (px) => (y0 - px) / scale + bottom;
  map.width = width;
  map.left = Float32Array.from(xs, map.toX);
  map.top = Float32Array.from(ys, map.toY);
  map.grid = new Map();
  for (let i = 0; i < xs.length; i++) {
    const key = cellOf(map.left[i], map.top[i]);
    if (map.grid.has(key)) map.grid.get(key).push(i);
    else map.grid.set(key, [i]);
  }
}

function range(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return [low, high];
}

const cellOf = (x, y) => Math.floor(x / CELL) * 4096 + Math.floor(y / CELL);

function paint(map) {
  const { canvas, width, left, top } = map;
  const ratio = devicePixelRatio;
  Object.assign(canvas, { width: width * ratio, height: HEIGHT * ratio });
  canvas.style.height = `${HEIGHT}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.fillStyle = getComputedStyle(map.host).getPropertyValue("--ink");
  const size = left.length > 20_000 ? 1.5 : left.length > 2_000 ? 2 : 4;
  const inside = insideOf(map);
  for (let shade = 0; shade <= SHADES; shade++) {
    for (const chosen of [false, true]) {
      pen.globalAlpha = chosen ? 0.2 + (0.75 * shade) / SHADES : 0.1;
      for (let i = 0; i < left.length; i++) {
        if (map.shades[i] === shade && inside(i) === chosen) pen.fillRect(left[i] - size / 2, top[i] - size / 2, size, size);
      }
    }
  }
  showFrame(map, map.box && [map.toX(map.box.left), map.toY(map.box.top), map.toX(map.box.right), map.toY(map.box.bottom)]);
}

function insideOf({ box, points: { xs, ys } }) {
  if (!box) return () => true;
  return (i) => xs[i] >= box.left && xs[i] <= box.right && ys[i] >= box.bottom && ys[i] <= box.top;
}

function showFrame({ frame }, corners) {
  frame.hidden = !corners;
  if (!corners) return;
  const [a, b, c, d] = corners;
  Object.assign(frame.style, { left: `${Math.min(a, c)}px`, top: `${Math.min(b, d)}px`, width: `${Math.abs(a - c)}px`, height: `${Math.abs(b - d)}px` });
}

function nearest(map, x, y) {
  let [best, least] = [null, CELL * CELL];
  for (const dx of [-CELL, 0, CELL]) {
    for (const dy of [-CELL, 0, CELL]) {
      for (const i of map.grid.get(cellOf(x + dx, y + dy)) ?? []) {
        const distance = (map.left[i] - x) ** 2 + (map.top[i] - y) ** 2;
        if (distance < least) [best, least] = [i, distance];
      }
    }
  }
  return best;
}

function followPointer(map, sheet, onBox) {
  let from = null;
  const place = (event) => {
    const box = sheet.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  sheet.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    if (from) showFrame(map, [...from, x, y]);
    else pointAt(map, nearest(map, x, y));
  });
  sheet.addEventListener("pointerleave", () => from || pointAt(map, null));
  sheet.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch" || event.button !== 0) return; // a finger scrolls the page
    from = place(event);
    event.preventDefault();
  });
  document.addEventListener("pointerup", (event) => {
    if (!from) return;
    const [[a, b], [c, d]] = [from, place(event)];
    from = null;
    const isDrag = Math.hypot(a - c, b - d) > 4;
    if (!isDrag && event.target.closest(".dot")) return;
    onBox(isDrag ? boxOf(map, a, b, c, d) : null);
  });
  map.dot.addEventListener("dragstart", (event) => event.preventDefault());
}

function boxOf(map, a, b, c, d) {
  const [xs, ys] = [[map.fromX(a), map.fromX(c)], [map.fromY(b), map.fromY(d)]];
  return { left: Math.min(...xs), right: Math.max(...xs), bottom: Math.min(...ys), top: Math.max(...ys) };
}

// A link over the feature that is pointed at; what it fires on is asked for once the pointer rests.
function pointAt(map, index) {
  if (map.pointed === index) return;
  map.pointed = index;
  clearTimeout(map.resting);
  map.dot.hidden = index === null;
  if (index === null) return;
  map.dot.href = address(`/sae/${map.sae}/${index}`);
  map.dot.textContent = `Feature ${index}`;
  map.dot.style.transform = `translate(${map.left[index] - 6}px, ${map.top[index] - 6}px)`;
  say(map, index, "");
  map.resting = setTimeout(() => nameFeature(map, index), 80);
}

function say(map, index, more) {
  const log = map.points.logs[index];
  map.dot.dataset.tip = `feature ${index}\n${log === -Infinity ? "dead" : `density ${density(10 ** log)}`}${more}`;
}

async function nameFeature(map, index) {
  const [x, y] = [map.points.xs[index], map.points.ys[index]];
  const query = new URLSearchParams({ left: x, right: x, bottom: y, top: y, alive: false });
  try {
    const { rows, pieces } = await ask(`/api/sae/${map.sae}/features?${query}`, null, "point");
    const row = rows.find((one) => one.index === index);
    if (row?.peak_tokens.length && map.pointed === index) {
      say(map, index, `\nmax ${number(row.max)}\nfires most on ${row.peak_tokens.map((id) => visible(pieces[id])).join(" ")}`);
      map.dot.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
    }
  } catch (error) {
    if (error.name !== "AbortError") say(map, index, `\n${error.message}`);
  }
}

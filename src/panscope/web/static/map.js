// A map of a Sae's features by their decoder directions, on a canvas.
//
// Pointing finds the nearest feature and puts a link over it, as the arrow keys do; dragging chooses
// a box, which the list beside it then keeps to.
import { askPlaces } from "./ask.js";
import { onWidth } from "./axes.js";
import { Dot } from "./dot.js";
import { count } from "./numbers.js";
import { element } from "./page.js";

const HEIGHT = 340;
const MARGIN = 8;
const SHADES = 5;

// `onBox` is told the box that was dragged, {left, right, bottom, top} in the map's units, or null.
export async function drawMap(host, sae, onBox) {
  const points = await askPlaces(sae);
  const map = { host, sae, points, box: null, shades: shades(points.logs) };
  const canvas = element("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Map of ${count(points.logs.length)} features; the list beside it holds the same features`);
  const dot = new Dot(map);
  const frame = element("div", { className: "frame", hidden: true });
  const sheet = element("div", { className: "sheet" }, canvas, frame, dot.link, dot.heard);
  Object.assign(map, { canvas, frame });
  onWidth(host, (width) => {
    lay(map, width);
    dot.lay();
    paint(map);
    return sheet;
  });
  followPointer(map, dot, sheet, onBox);
  new MutationObserver(() => paint(map)).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => paint(map));
  return (box) => {
    map.box = box;
    paint(map);
  };
}

// Which shade of grey each point has, by rank of density: the dead are palest.
function shades(logs) {
  const alive = logs.filter((value) => value > -Infinity).sort();
  const edges = Array.from({ length: SHADES - 1 }, (_, i) => alive[Math.floor(((i + 1) * alive.length) / SHADES)]);
  return Uint8Array.from(logs, (value) => (value === -Infinity ? 0 : 1 + edges.filter((edge) => value >= edge).length));
}

// Places on the canvas in px, at one scale for both axes.
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
}

function range(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return [low, high];
}

// Each point's square of pixels, written into an image: a rectangle each would take eight times as
// long. Where points lie over one another the ink adds up, in any order alike.
function paint(map) {
  const { canvas, width, left, top } = map;
  const ratio = devicePixelRatio;
  Object.assign(canvas, { width: width * ratio, height: HEIGHT * ratio });
  canvas.style.height = `${HEIGHT}px`;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.fillStyle = getComputedStyle(map.host).getPropertyValue("--ink");
  pen.fillRect(0, 0, 1, 1);
  const [ink] = new Uint32Array(pen.getImageData(0, 0, 1, 1).data.buffer);
  const image = pen.createImageData(canvas.width, canvas.height);
  new Uint32Array(image.data.buffer).fill(ink & 0xffffff); // the ink, with nothing of it yet
  const size = Math.max(1, Math.round(ratio * (left.length > 20_000 ? 1 : left.length > 2_000 ? 2 : 4)));
  const inside = insideOf(map);
  const strength = Math.min(1, 80 / Math.sqrt(left.length)); // many points are paler, so that crowds show
  for (let i = 0; i < left.length; i++) {
    const alpha = strength * (inside(i) ? 0.2 + (0.75 * map.shades[i]) / SHADES : 0.1);
    darken(image, Math.round(left[i] * ratio - size / 2), Math.round(top[i] * ratio - size / 2), size, alpha);
  }
  pen.putImageData(image, 0, 0);
  showFrame(map, map.box && [map.toX(map.box.left), map.toY(map.box.top), map.toX(map.box.right), map.toY(map.box.bottom)]);
}

function darken({ data, width }, x, y, size, alpha) {
  for (let row = y; row < y + size; row++) {
    for (let at = 4 * (row * width + x) + 3, n = 0; n < size; n++, at += 4) data[at] += (255 - data[at]) * alpha;
  }
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

function followPointer(map, dot, sheet, onBox) {
  let from = null;
  const place = (event) => {
    const box = sheet.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  sheet.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    const [x, y] = place(event);
    if (from) showFrame(map, [...from, x, y]);
    else dot.point(dot.nearest(x, y));
  });
  sheet.addEventListener("click", (event) => event.pointerType === "touch" && dot.point(dot.nearest(...place(event))));
  sheet.addEventListener("pointerleave", () => from || dot.point(null));
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
  dot.link.addEventListener("dragstart", (event) => event.preventDefault());
}

function boxOf(map, a, b, c, d) {
  const [xs, ys] = [[map.fromX(a), map.fromX(c)], [map.fromY(b), map.fromY(d)]];
  return { left: Math.min(...xs), right: Math.max(...xs), bottom: Math.min(...ys), top: Math.max(...ys) };
}

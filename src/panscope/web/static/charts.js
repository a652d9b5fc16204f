// The charts: bars of a histogram, a curve, points that lead somewhere.
import { axes, linear, log, root, svg } from "./axes.js";
import { count } from "./numbers.js";

const LEFT = 44;
const TOP = 24;
const BOTTOM = 38;

export const SHAPES = {
  resid_post: "M0-5A5 5 0 1 0 0 5A5 5 0 1 0 0-5Z",
  mlp_out: "M-4.5-4.5H4.5V4.5H-4.5Z",
  attn_z: "M0-5.5L5.5 4.5H-5.5Z",
  resid_mid: "M0-6L6 0L0 6L-6 0Z",
  attn_out: "M0 5.5L5.5-4.5H-5.5Z",
};
const OTHER = "M-5-5L5 5M5-5L-5 5";

export function shape(kind) {
  return SHAPES[kind] ?? OTHER;
}

function sheet(width, height) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "presentation" });
}

// Bars between `edges`; `isLog` draws the edges on a log axis, `isRoot` the counts on a square-root
// axis, where few beside many are still seen. `mark` is a value to point out,
// `link(low, high)` makes each bar a link, `tint(value)` shades it by activation.
export function bars(width, { edges, counts, isLog, isRoot, xTitle, yTitle, xFormat, say, mark, markText, link, tint, chosen }) {
  const height = 168;
  const made = sheet(width, height);
  const x = (isLog ? log : linear)([edges[0], edges.at(-1)], [LEFT, width - 8]);
  const y = (isRoot ? root : linear)([0, Math.max(1, ...counts)], [height - BOTTOM, TOP]);
  made.append(axes(x, y, { xTitle, yTitle: isRoot ? `${yTitle} (root axis)` : yTitle, xFormat, yFormat: count }));
  counts.forEach((n, i) => made.append(oneBar(x, y, edges[i], edges[i + 1], n, { say, link, tint, chosen })));
  if (mark) made.append(pointOut(x(Math.min(Math.max(mark, edges[0]), edges.at(-1))), y, markText, width));
  return made;
}

function oneBar(x, y, low, high, n, { say, link, tint, chosen }) {
  const [left, right] = [x(low) + 0.5, x(high) - 0.5];
  const top = n ? Math.min(y(n), y(0) - 1) : y(0);
  const bar = svg("rect", { class: "bar", x: left, y: top, width: Math.max(1, right - left), height: y(0) - top });
  if (tint) {
    bar.classList.add("tinted");
    bar.style.setProperty("--a", tint((low + high) / 2));
  }
  if (chosen?.(low, high)) bar.classList.add("chosen");
  const hit = svg("rect", { class: "hit", x: left, y: TOP, width: Math.max(1, right - left), height: y(0) - TOP });
  const group = link && n ? svg("a", { href: link(low, high), "aria-label": say(low, high, n) }) : svg("g", { class: "hit" });
  group.dataset.tip = say(low, high, n);
  group.append(hit, bar);
  return group;
}

function pointOut(at, y, text, width) {
  const anchor = at > width * 0.6 ? "end" : "start";
  return svg(
    "g",
    {},
    svg("line", { class: "mark", x1: at, x2: at, y1: y(0), y2: TOP - 6 }),
    svg("text", { class: "mark-text", x: at + (anchor === "end" ? -4 : 4), y: TOP + 2, "text-anchor": anchor }, text),
  );
}

// A curve over positions; places without a value are left out.
export function curve(width, { values, xTitle, yTitle, say }) {
  const height = 150;
  const made = sheet(width, height);
  const points = values.map((value, i) => [i, value]).filter(([, value]) => value !== null);
  const x = linear([0, values.length - 1], [LEFT, width - 8]);
  const y = linear([0, Math.max(...points.map(([, value]) => value)) || 1], [height - BOTTOM, TOP]);
  made.append(axes(x, y, { xTitle, yTitle, xFormat: count }));
  made.append(svg("path", { class: "curve", d: points.map(([i, value], n) => `${n ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`).join("") }));
  const half = (x(1) - x(0)) / 2;
  for (const [i, value] of points) {
    const hit = svg("rect", { class: "hit", x: x(i) - half, y: TOP, width: 2 * half, height: y(0) - TOP });
    hit.dataset.tip = say(i, value);
    made.append(hit);
  }
  return made;
}

// Points that are links, joined along `line`; each is {x, y, href, kind, text, say, line}. The last
// point of a line carries its `text`.
export function scatter(width, { points, xTitle, yTitle, best, right }) {
  const height = Math.max(260, Math.min(380, width * 0.45));
  const made = sheet(width, height);
  const [xs, ys] = [points.map((p) => p.x), points.map((p) => p.y)];
  const x = log([Math.min(...xs) / 1.15, Math.max(...xs) * 1.05], [LEFT + 8, width - right]);
  const [low, high] = [1.08 * Math.min(0, ...ys), 1.08 * Math.max(0, ...ys)]; // a loss may fall, too
  const y = linear([low, high || (low ? 0 : 1)], [height - BOTTOM, TOP]);
  made.append(axes(x, y, { xTitle, yTitle }));
  made.append(svg("text", { class: "best", x: LEFT + 14, y: height - BOTTOM - 8 }, best));
  for (const line of Map.groupBy(points, (p) => p.line).values()) {
    const along = line.toSorted((a, b) => a.x - b.x);
    made.append(svg("path", { class: "join", d: along.map((p, n) => `${n ? "L" : "M"}${x(p.x)} ${y(p.y)}`).join("") }));
  }
  made.append(lineNames(points, x, y, height - BOTTOM - 5)); // behind the points, of which none may be hidden
  for (const p of points) made.append(onePoint(p, x(p.x), y(p.y)));
  return made;
}

// Names keep the order of their points from top to bottom, and move apart where they would overlap,
// away from points and up from the axis; a thin line leads from the point to its name.
function lineNames(points, x, y, floor) {
  const made = svg("g", { "aria-hidden": "true" });
  const ends = [...Map.groupBy(points, (p) => p.line).values()].map((line) => line.reduce((a, b) => (a.x > b.x ? a : b)));
  const marks = points.map((p) => ({ left: x(p.x), top: y(p.y) }));
  const names = ends.map((p) => placed({ text: p.text, at: x(p.x), home: y(p.y), wide: p.text.length * 7 + 24 }, marks));
  names.sort((a, b) => a.home - b.home);
  for (let round = 0; round < 60; round++) {
    for (const name of names) {
      for (const mark of name.behind) leave(name, mark);
      name.top = Math.min(name.top, floor);
    }
    names.forEach((name, i) => names.slice(i + 1).forEach((other) => part(name, other)));
  }
  for (const { text, at, side, top, home } of names) {
    made.append(svg("path", { class: "lead", d: `M${at + 7 * side} ${home}L${at + 20 * side} ${top}` }));
    made.append(svg("text", { class: "name", x: at + 22 * side, y: top + 4, "text-anchor": side > 0 ? "start" : "end" }, text));
  }
  return made;
}

// A name stands right of its point, or left where only the right has another point in its way.
function placed(name, marks) {
  const on = (side) => {
    const from = side > 0 ? name.at : name.at - name.wide;
    const behind = marks.filter(({ left }) => Math.abs(left - name.at) > 14 && left > from && left < from + name.wide);
    return { ...name, side, from, behind, top: name.home };
  };
  const isFree = ({ behind }) => behind.every((mark) => Math.abs(mark.top - name.home) >= 8);
  const [right, left] = [on(1), on(-1)];
  return isFree(right) || !isFree(left) ? right : left;
}

function leave(name, mark) {
  const overlap = 10 - Math.abs(name.top - mark.top);
  if (overlap > 0) name.top += (name.top < mark.top ? -overlap : overlap) / 2;
}

function part(upper, lower) {
  const overlap = 11 - (lower.top - upper.top);
  if (overlap <= 0 || upper.from + upper.wide < lower.from || lower.from + lower.wide < upper.from) return;
  upper.top -= overlap / 2;
  lower.top += overlap / 2;
}

function onePoint(p, left, top) {
  const link = svg("a", { class: "point", href: p.href, "aria-label": p.say.replaceAll("\n", ", "), transform: `translate(${left} ${top})` });
  link.dataset.tip = p.say;
  link.append(svg("circle", { r: 7, fill: "transparent" }), svg("path", { d: shape(p.kind) }));
  return link;
}


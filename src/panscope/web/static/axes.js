// Scales, ticks and axes of the charts, as SVG.
import { tick as plain } from "./numbers.js";

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function linear([low, high], [start, end]) {
  const place = (value) => start + ((value - low) / (high - low || 1)) * (end - start);
  return Object.assign(place, { domain: [low, high], range: [start, end], ticks: linearTicks(low, high, Math.abs(end - start)) });
}

// Counts from 0 on a square-root axis, ticks at round shares of the square root.
export function root([, high], [start, end]) {
  const place = (value) => start + Math.sqrt(value / (high || 1)) * (end - start);
  const ticks = [0, 1, 4, 9, 16].map((part) => (high * part) / 16).map((value) => Number(value.toPrecision(1)));
  return Object.assign(place, { domain: [0, high], range: [start, end], ticks: [...new Set(ticks)].filter((value) => value <= high) });
}

export function log([low, high], [start, end]) {
  const [a, b] = [Math.log10(low), Math.log10(high)];
  const place = (value) => start + ((Math.log10(value) - a) / (b - a || 1)) * (end - start);
  const ticks = b - a < 0.5 ? linearTicks(low, high, Math.abs(end - start)) : logTicks(a, b);
  return Object.assign(place, { domain: [low, high], range: [start, end], ticks });
}

function linearTicks(low, high, pixels) {
  const rough = (high - low) / Math.max(4, Math.min(6, pixels / 45)) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((times) => times * power >= rough) * power;
  const first = Math.ceil(low / step - 1e-9);
  const n = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: n }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

// Powers of ten; where the range is short, some values between them too.
function logTicks(a, b) {
  const times = b - a > 2.5 ? [1] : b - a > 1.2 ? [1, 2, 5] : [1, 1.5, 2, 3, 5, 7];
  const ticks = [];
  for (let power = Math.floor(a); power <= Math.ceil(b); power++) {
    for (const t of times) {
      const value = t * 10 ** power;
      if (Math.log10(value) >= a - 1e-9 && Math.log10(value) <= b + 1e-9) ticks.push(value);
    }
  }
  const every = Math.ceil(ticks.length / 6);
  return ticks.filter((_, i) => i % every === 0);
}

export function axes(x, y, { xTitle, yTitle, xFormat = plain, yFormat = plain }) {
  const [left, right] = x.range;
  const [bottom, top] = y.range;
  const group = svg("g", { "aria-hidden": "true" });
  for (const tick of y.ticks) {
    group.append(svg("line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }));
    group.append(svg("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, yFormat(tick)));
  }
  for (const tick of x.ticks) {
    group.append(svg("line", { class: "axis", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 4 }));
    group.append(svg("text", { x: x(tick), y: bottom + 16, "text-anchor": "middle" }, xFormat(tick)));
  }
  group.append(svg("path", { class: "axis", d: `M${left} ${bottom}H${right}` }));
  group.append(svg("text", { class: "title", x: right, y: bottom + 32, "text-anchor": "end" }, xTitle));
  group.append(svg("text", { class: "title", x: 0, y: top - 8 }, yTitle));
  return group;
}

// Draw now and whenever the width changes, in real pixels, so that text keeps its size on a phone.
export function onWidth(host, draw) {
  let last = 0;
  new ResizeObserver(() => {
    const width = Math.floor(host.clientWidth);
    if (width === last || width < 50) return;
    last = width;
    host.replaceChildren(draw(width));
  }).observe(host);
}

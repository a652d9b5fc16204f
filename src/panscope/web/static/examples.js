// Where a feature fires: its examples as strips in bands, the strongest first.
import { number, percent } from "./numbers.js";
import { data, element, remember } from "./page.js";
import { offerSizes } from "./passages.js";
import { foldedStrip, snippetStrip, wholeStrip } from "./strip.js";
import { pin, unpin } from "./tip.js";
import { canTry, tryPassage } from "./trial.js";

const { view } = data();
const { feature } = view;
const contexts = new Map(view.contexts.map((context) => [context.context, context]));
const host = document.getElementById("examples"); // absent where a page embeds this one without them
const lines = [];
let size = offerSizes(showAll);

// Tokens of an example; the BOS is left out, since no Sae was trained on it.
function tokensOf(example) {
  const { tokens, documents } = contexts.get(example.context);
  const values = new Map(example.positions.map((position, n) => [position, example.values[n]]));
  return tokens
    .map((id, position) => ({ id, position, piece: view.pieces[id], value: values.get(position) ?? 0, document: documents[position] }))
    .slice(1);
}

function peakValue(example) {
  return example.values[example.positions.indexOf(example.peak)] ?? 0;
}

function bandHead(number_, shown) {
  const band = feature.bands[number_];
  // The atlas cuts bands at edges of its bins, so the highest band may end above the maximum.
  const title = band ? `${number(band.low)} to ${number(Math.min(band.high, feature.max))}` : "Strongest of all";
  const share = band ? `${percent(band.share)} of firings` : "the highest peaks";
  const range = element("span", { className: "range" });
  range.setAttribute("aria-hidden", "true");
  const low = band ? band.low / feature.max : Math.min(...shown.map(peakValue)) / feature.max;
  const high = band ? Math.min(1, band.high / feature.max) : 1;
  const part = element("i", { className: "ramped" });
  part.style.cssText = `left: ${100 * low}%; width: ${100 * (high - low)}%; --a: ${(low + high) / 2}`;
  range.append(part);
  return element("header", {}, element("h3", { textContent: title }), range, element("span", { textContent: share }), element("small", { textContent: shown.length === 1 ? "1 example" : `${shown.length} examples` }));
}

function line(example, place) {
  const context = contexts.get(example.context);
  const strip = element("div", { className: "strip-place" });
  const fold = element("button", { type: "button" });
  const use = element("button", { type: "button", textContent: "test", title: "Put this passage into the test box" });
  const peak = peakValue(example);
  const made = element(
    "div",
    { className: "example" },
    element("span", { className: "n", textContent: number(peak), title: peak }),
    element("div", { className: "strip" }, strip),
    element("span", { className: "kind", textContent: context.kind, title: `${context.kind}, document ${context.documents[example.peak]}, row ${context.context}` }),
    element("span", { className: "acts" }, ...(canTry ? [use] : []), fold),
  );
  const entry = { example, place, made, strip, fold, tokens: tokensOf(example) };
  fold.onclick = () => turn(entry);
  use.onclick = () => tryPassage(entry.tokens);
  mark(entry, size);
  lines.push(entry);
  return made;
}

function mark(entry, to) {
  entry.size = to;
  entry.fold.textContent = to === "whole" ? "fold" : "unfold";
  entry.fold.setAttribute("aria-expanded", String(to === "whole"));
  entry.made.classList.toggle("open", to !== "line");
}

// One passage alone: whole, and back to the size of all; where they are whole too, to one line.
function turn(entry) {
  const folded = size === "whole" ? "line" : size;
  show(entry, entry.size === "whole" ? folded : "whole");
}

function show(entry, to) {
  mark(entry, to);
  drawStrip(entry);
}

function showAll(to) {
  size = to;
  unpin();
  for (const entry of lines) show(entry, size);
  restorePin();
}

function stripOf({ example, tokens, size: to }, room) {
  if (to === "whole") return wholeStrip(tokens, feature.max, example.peak);
  const draw = to === "snippet" ? snippetStrip : foldedStrip;
  return draw(tokens, feature.max, example.peak, room);
}

// 7.8 px is the width of a character at 13 px in the monospace fonts of the stack, 0.6 em. On a phone
// a line scrolls.
function drawStrip(entry) {
  const { strip, place } = entry;
  const isWide = entry.size === "line" && matchMedia("(max-width: 640px)").matches;
  const made = stripOf(entry, (isWide ? 900 : strip.clientWidth) / 7.8);
  made.dataset.example = place;
  strip.replaceChildren(made);
  if (made.scrollWidth > made.clientWidth) {
    const peak = made.querySelector(".peak");
    made.scrollLeft = peak.offsetLeft - made.offsetLeft - made.clientWidth / 2 + peak.offsetWidth / 2;
  }
}

export function drawExamples() {
  if (!host) return;
  const groups = Map.groupBy(feature.examples, (example) => example.band);
  let place = 0;
  for (const band of [...groups.keys()].sort((a, b) => a - b)) {
    const shown = groups.get(band).toSorted((a, b) => peakValue(b) - peakValue(a));
    const section = element("section", { className: "band" }, bandHead(band, shown));
    section.setAttribute("aria-label", band < 0 ? "Strongest of all" : `Band ${band + 1}`);
    for (const example of shown) section.append(line(example, place++));
    host.append(section);
  }
  let last = 0;
  new ResizeObserver(() => {
    if (host.clientWidth === last) return;
    last = host.clientWidth;
    lines.forEach(drawStrip);
    restorePin();
  }).observe(host);
}

// The pinned token is in the address as example and position.
function restorePin() {
  const [place, position] = (new URLSearchParams(location.search).get("pin") ?? "").split(".");
  const strip = host.querySelector(`[data-example="${CSS.escape(place)}"]`);
  const token = strip?.querySelector(`[data-position="${CSS.escape(position ?? "")}"]`);
  if (token) pin(token);
}

function onToken(event) {
  const token = event.target.closest(".t");
  if (!token) return;
  const strip = token.closest("[data-example]");
  const kept = pin(token);
  if (strip) remember({ pin: kept ? `${strip.dataset.example}.${token.dataset.position}` : null });
}

document.querySelector("main").addEventListener("click", onToken);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") remember({ pin: null });
});

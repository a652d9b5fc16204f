// The feature page: examples as strips in bands, and the charts beside them.
import { address } from "./address.js";
import { ask, sayFailure } from "./ask.js";
import { onWidth } from "./axes.js";
import { bars } from "./charts.js";
import { count, density, densityTick, number, percent } from "./numbers.js";
import { data, element, remember } from "./page.js";
import { shares } from "./share.js";
import { foldedStrip, glyphs, wholeStrip } from "./strip.js";
import { pin } from "./tip.js";
import { canTry, startTrial, tryPassage } from "./trial.js";
import "./embed.js";
import "./judged.js";
import "./label.js";
import "./star.js";

const { view, densities } = data();
const { feature, sae } = view;
const contexts = new Map(view.contexts.map((context) => [context.context, context]));
const host = document.getElementById("examples");
const query = new URLSearchParams(location.search);
const opened = new Set();
const lines = [];

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
  const fold = element("button", { type: "button", textContent: "unfold" });
  const use = element("button", { type: "button", textContent: "test", title: "Put this passage into the test box" });
  fold.setAttribute("aria-expanded", "false");
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
  fold.onclick = () => toggle(entry, !opened.has(place));
  use.onclick = () => tryPassage(entry.tokens);
  lines.push(entry);
  return made;
}

function toggle(entry, open) {
  opened[open ? "add" : "delete"](entry.place);
  entry.fold.textContent = open ? "fold" : "unfold";
  entry.fold.setAttribute("aria-expanded", String(open));
  entry.made.classList.toggle("open", open);
  drawStrip(entry);
}

// 7.8 px is the width of a character at 13 px in the monospace fonts of the stack, 0.6 em.
function drawStrip(entry) {
  const { example, strip, tokens, place } = entry;
  const width = (matchMedia("(max-width: 640px)").matches ? 900 : strip.clientWidth) / 7.8;
  const made = opened.has(place) ? wholeStrip(tokens, feature.max, example.peak) : foldedStrip(tokens, feature.max, example.peak, width);
  made.dataset.example = place;
  strip.replaceChildren(made);
  if (made.scrollWidth > made.clientWidth) {
    const peak = made.querySelector(".peak");
    made.scrollLeft = peak.offsetLeft - made.offsetLeft - made.clientWidth / 2 + peak.offsetWidth / 2;
  }
}

function drawExamples() {
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

// The narrowest run of bins that holds half of the firings, for the title.
function middleHalf(counts) {
  const total = counts.reduce((sum, n) => sum + n, 0);
  let best = [0, counts.length - 1];
  for (let a = 0; a < counts.length; a++) {
    let sum = 0;
    for (let b = a; b < counts.length; b++) {
      sum += counts[b];
      if (sum >= total / 2 && b - a < best[1] - best[0]) best = [a, b];
    }
  }
  return best;
}

let pointOut = () => {}; // the strongest value of a tested text, on the chart of activations

function drawActivations() {
  const title = document.getElementById("activation-title");
  const filled = feature.histogram.flatMap((n, i) => (n ? [i] : []));
  const [from, to] = [Math.max(0, filled[0] - 1), Math.min(feature.histogram.length, filled.at(-1) + 2)];
  const counts = feature.histogram.slice(from, to);
  const edges = sae.bin_edges.slice(from, to + 1);
  const [a, b] = middleHalf(counts);
  title.textContent = `Half of its firings are between ${number(edges[a])} and ${number(edges[b + 1])}`;
  const say = (low, high, n) => `${count(n)} firings\n${number(low)} to ${number(high)}`;
  // From a quarter of the ramp up: the palest bars must still stand out from the paper.
  const tint = (value) => Math.min(1, 0.25 + (0.75 * value) / feature.max);
  let tested = null;
  const draw = (width) => bars(width, { edges, counts, isLog: true, xTitle: "activation (log axis)", yTitle: "firings", say, tint, mark: tested, markText: "your text" });
  const host = document.getElementById("activations");
  onWidth(host, draw);
  pointOut = (value) => {
    tested = value;
    if (host.clientWidth > 50) host.replaceChildren(draw(Math.floor(host.clientWidth)));
  };
}

function drawDensities() {
  const { edges, counts } = densities;
  const alive = counts.reduce((sum, n) => sum + n, 0);
  const title = document.getElementById("density-title");
  const at = Math.log10(feature.density);
  const below = counts.reduce((sum, n, i) => sum + (edges[i + 1] <= at ? n : edges[i] <= at ? (n * (at - edges[i])) / (edges[i + 1] - edges[i]) : 0), 0);
  title.textContent = feature.count
    ? `It fires more often than about ${Math.round((100 * below) / alive)} % of this Sae’s alive features`
    : `${count(densities.n_dead)} features of this Sae are dead, this one among them`;
  const say = (low, high, n) => `${count(n)} features\n${density(10 ** low)} to ${density(10 ** high)}`;
  const mark = feature.count ? at : null;
  onWidth(document.getElementById("densities"), (width) =>
    bars(width, { edges, counts, xTitle: "density: share of tokens (log axis)", yTitle: "features", xFormat: densityTick, say, mark, markText: "this feature" }),
  );
}

function drawEffects() {
  const { logit_histogram: counts } = feature;
  const edges = sae.logit_bin_edges;
  const total = counts.reduce((sum, n) => sum + n, 0);
  const size = Math.max(Math.abs(feature.top_logits[0] ?? 0), Math.abs(feature.bottom_logits[0] ?? 0));
  const wide = counts.reduce((sum, n, i) => sum + (Math.max(Math.abs(edges[i]), Math.abs(edges[i + 1])) > size / 2 ? n : 0), 0);
  document.getElementById("effects-title").textContent = `${count(wide)} of ${count(total)} tokens are moved by half of the most it can do`;
  const say = (low, high, n) => `${count(n)} tokens\nlogit ${number(low)} to ${number(high)}`;
  onWidth(document.getElementById("effects"), (width) => bars(width, { edges, counts, xTitle: "effect on the logit", yTitle: "tokens", say, isRoot: true }));
}

// Which table of related features is open stands in the address.
function showRelated() {
  const tabs = document.querySelectorAll(".tabs input");
  const wanted = [...tabs].find((tab) => tab.value === query.get("near"));
  if (wanted) wanted.checked = true;
  if (wanted?.value === "elsewhere") nameElsewhere();
  for (const tab of tabs) tab.onchange = () => openRelated(tab.value);
}

function openRelated(tab) {
  remember({ near: tab === "decoder" ? null : tab });
  if (tab === "elsewhere") nameElsewhere();
}

async function nameElsewhere() {
  const cells = document.querySelectorAll(".near .says");
  if (cells[0].hasChildNodes()) return;
  try {
    const { hits, pieces } = await ask(`/api/sae/${sae.sae}/feature/${feature.index}/elsewhere`);
    hits.forEach(({ label, row }, n) => cells[n].append(...(label ? [label] : row.peak_tokens.slice(0, 3).map((id) => pieceElement(pieces[id])))));
  } catch (error) {
    sayFailure(cells[0], error, nameElsewhere);
  }
}

const pieceElement = (piece) => element("span", { className: "piece" }, glyphs(piece));

shares(document.getElementById("share"));
document.getElementById("unfold")?.addEventListener("click", (event) => {
  const open = event.target.getAttribute("aria-pressed") !== "true";
  event.target.setAttribute("aria-pressed", String(open));
  event.target.textContent = open ? "Fold all" : "Unfold all";
  for (const entry of lines) toggle(entry, open);
});
const jump = document.getElementById("jump");
jump.addEventListener("submit", (event) => {
  event.preventDefault();
  location.assign(address(`/sae/${sae.sae}/${jump.elements.index.value}`));
});
document.querySelector("main").addEventListener("click", onToken);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") remember({ pin: null });
});
if (host) drawExamples();
if (document.getElementById("densities")) {
  if (feature.count) drawActivations();
  if (feature.logit_histogram.length) drawEffects();
  drawDensities();
  showRelated();
}
startTrial((top) => pointOut(top));

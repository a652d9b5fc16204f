// The feature page: its parts, and the charts beside the examples.
import { address } from "./address.js";
import { ask, sayFailure } from "./ask.js";
import { onWidth } from "./axes.js";
import { bars } from "./charts.js";
import { drawExamples } from "./examples.js";
import { count, density, densityTick, number } from "./numbers.js";
import { data, element, ofFeature, remember } from "./page.js";
import { shares } from "./share.js";
import { glyphs } from "./strip.js";
import { startTrial } from "./trial.js";
import "./comments.js";
import "./embed.js";
import "./judged.js";
import "./label.js";
import "./lists.js";
import "./passages.js";
import "./star.js";

const { view, densities } = data();
const { feature, sae } = view;
const query = new URLSearchParams(location.search);

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
    const { hits, pieces } = await ask(ofFeature("elsewhere"));
    hits.forEach(({ label, row }, n) => cells[n].append(...(label ? [label] : row.peak_tokens.slice(0, 3).map((id) => pieceElement(pieces[id])))));
  } catch (error) {
    sayFailure(cells[0], error, nameElsewhere);
  }
}

const pieceElement = (piece) => element("span", { className: "piece" }, glyphs(piece));

shares(document.getElementById("share"));
const jump = document.getElementById("jump");
jump.addEventListener("submit", (event) => {
  event.preventDefault();
  location.assign(address(`/sae/${sae.sae}/${jump.elements.index.value}`));
});
drawExamples();
if (document.getElementById("densities")) {
  if (feature.count) drawActivations();
  if (feature.logit_histogram.length) drawEffects();
  drawDensities();
  showRelated();
}
startTrial((top) => pointOut(top));

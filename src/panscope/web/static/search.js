// The search page: one form of five, and the features that it found, a window at a time.
//
// What was asked stands in the address under the names of the form's fields; `tokens` are the chosen
// places of a text. A pasted vector stands behind the #, where no length is too long.
import { ask, cancel, sayFailure } from "./ask.js";
import { hitElement } from "./hits.js";
import { count } from "./numbers.js";
import { element, remember } from "./page.js";
import { shares } from "./share.js";
import { wholeStrip } from "./strip.js";

const WINDOW = 50;
const cosine = (shown) => `cosine ${shown}`;
const MEASURES = { share: (shown) => `${shown} of its max`, value: (shown) => `value ${shown}`, sum: (shown) => `sum ${shown}`, direction: cosine, meaning: cosine };
const AT_ONCE = ["meaning", "text", "direction"]; // what cannot be asked for a window at a time
const VECTOR = "#vector=";
const NONE = { words: "No label has all of these words", numbers: "No feature is like that; try wider bounds or another token", text: "No feature fires there", meaning: "There are no labels", direction: "No Sae writes there" };
const missing = document.getElementById("missing"); // what this search would need: said once, by the page
const form = document.getElementById("search");
const { by } = form.dataset;
const fields = form.elements;
const status = document.getElementById("status");
const results = document.getElementById("results");
const list = document.getElementById("hits");
const more = document.getElementById("more");
const usual = Object.fromEntries(named().map((field) => [field.name, fields[field.name].value]));
const chosen = new Set();

function named() {
  return [...fields].filter((field) => field.name && field.name !== "vector");
}

const value = (name) => fields[name]?.value.trim() ?? "";

function readAddress() {
  const query = new URLSearchParams(location.search);
  for (const { name } of named()) if (query.has(name)) fields[name].value = query.get(name);
  for (const place of (query.get("tokens") ?? "").split(",").filter(Boolean)) chosen.add(Number(place));
  if (fields.vector && location.hash.startsWith(VECTOR)) fields.vector.value = decodeURIComponent(location.hash.slice(VECTOR.length));
}

function keep() {
  const state = Object.fromEntries(named().map(({ name }) => [name, fields[name].value === usual[name] ? null : fields[name].value]));
  remember({ ...state, tokens: [...chosen].sort((a, b) => a - b).join(",") });
  const hash = value("of") === "vector" && value("vector") ? VECTOR + encodeURIComponent(vector().join(",")) : "";
  history.replaceState(null, "", location.pathname + location.search + hash);
}

function isAsked() {
  if (by === "direction") return Boolean(value({ feature: "feature", texts: "text", vector: "vector" }[value("of")]));
  return by === "numbers" || Boolean(value("text"));
}

// Numbers with commas, blanks or brackets between, or what the API's “Direction” gives.
function vector() {
  const typed = value("vector").replace(/^[^[]*"direction"\s*:\s*/s, "");
  const parts = typed.split(/[\s,;[\]{}()]+/).filter(Boolean);
  const wrong = parts.find((part) => !Number.isFinite(Number(part)));
  if (wrong !== undefined) throw new Error(`“${wrong.slice(0, 40)}” is not a number`);
  return parts.map(Number);
}

function direction() {
  if (value("of") === "vector") return { vector: vector(), site: value("site") };
  if (value("of") === "texts") return { text: value("text"), without: value("without"), site: value("site") };
  const [, sae, index] = /^(.*)[/:](\d+)$/.exec(value("feature")) ?? [];
  if (!sae) throw new Error("A feature is written as site/name/index, resid_post.1/w64_l0_30_s0/7 for one");
  return { sae, index: Number(index) };
}

// What to ask of the API: a path, and a body for the searches that run a model.
function asked(offset) {
  const window = { offset, limit: WINDOW };
  if (by === "words") return [`/api/search/labels?${new URLSearchParams({ text: value("text"), sae: value("sae"), ...window })}`];
  if (by === "meaning") return ["/api/search/meanings", { text: value("text"), sae: value("sae"), limit: WINDOW }];
  if (by === "numbers") return [`/api/search/features?${numbers(window)}`];
  if (by === "direction") return ["/api/search/direction", { ...direction(), sites: value("sites"), limit: 2 * WINDOW }];
  const what = { text: fields.text.value, sites: value("sites"), layer: value("layer") ? Number(value("layer")) : null, tokens: [...chosen], by: value("rank"), max_density: Number(value("density")) };
  return ["/api/search/prompt", { ...what, limit: 2 * WINDOW }];
}

function numbers(window) {
  const query = new URLSearchParams({ text: value("text"), sites: value("sites"), scorer: value("scorer"), ...window });
  if (value("layer")) query.set("layer", value("layer"));
  const scales = { low: 100, high: 100, max_low: 1, max_high: 1, min_score: 1, max_score: 1 };
  for (const [name, scale] of Object.entries(scales)) {
    const typed = value(name).replace(",", ".");
    if (typed !== "" && Number.isNaN(Number(typed))) throw new Error(`“${typed}” is not a number`);
    if (typed !== "") query.set(name, String(Number(typed) / scale));
  }
  query.set("sort", value("sort").replace("-", ""));
  query.set("descending", String(value("sort").startsWith("-")));
  return query;
}

async function find(offset = 0) {
  cancel("find"); // also where what was typed cannot be asked: an older answer must not come after
  document.getElementById("start").hidden = isAsked();
  const timer = setTimeout(sayRunning, 100);
  try {
    keep();
    if (!isAsked() || missing) return clear();
    const [path, sent = null] = asked(offset);
    const found = await ask(path, sent, "find");
    status.hidden = !found.note;
    status.textContent = found.note && `The text was ${found.note}.`;
    show(found, offset);
  } catch (error) {
    if (offset === 0 && error.name !== "AbortError") results.hidden = true;
    sayFailure(status, error, () => find(offset));
  } finally {
    clearTimeout(timer);
  }
}

function sayRunning() {
  const stop = element("button", { type: "button", textContent: "Cancel", onclick: () => cancel("find") || (status.hidden = true) });
  status.hidden = false;
  const live = by === "text" || by === "direction";
  status.replaceChildren(live ? "Running the model; the first time it is loaded, which takes some seconds. " : "Searching. ", stop);
}

function clear() {
  for (const part of [results, status, document.getElementById("read")]) part.hidden = true;
}

function show(found, offset) {
  if (offset === 0) list.replaceChildren();
  results.hidden = false;
  const measure = MEASURES[by === "text" ? value("rank") : by] ?? null;
  const width = results.clientWidth - (matchMedia("(max-width: 640px)").matches ? 18 : 250); // the frame and the names
  list.append(...found.hits.map((hit) => hitElement(hit, found.pieces, measure, found.tokens, width)));
  more.hidden = list.children.length >= found.total || AT_ONCE.includes(by);
  document.getElementById("results-title").textContent = title(found);
  document.getElementById("start").hidden = by !== "words" || found.total > 0; // it says who writes labels
  if (by === "text") drawStrip(found.tokens);
}

function title({ total, hits, offset }) {
  if (total === 0) return NONE[by];
  const shown = offset + hits.length;
  if (by === "words") return `${shown} ${shown === 1 ? "feature" : "features"}, best match first`;
  if (by === "meaning" || by === "direction") return `The nearest ${count(shown)}`;
  if (shown === total) return `${count(total)} ${total === 1 ? "feature" : "features"}`;
  return `The first ${count(shown)} of ${count(total)} features`;
}

// The text of a search; its chosen tokens are pressed.
function drawStrip(tokens) {
  const strip = wholeStrip(tokens.map((piece, n) => ({ piece, id: "", position: n + 1, value: 0 })), 0);
  for (const token of strip.querySelectorAll(".t")) {
    const place = Number(token.dataset.position) - 1;
    token.dataset.tip = `position ${place + 1}`;
    token.setAttribute("aria-label", tokens[place]);
    token.setAttribute("aria-pressed", String(chosen.has(place)));
  }
  const before = document.activeElement?.closest("#strip .t")?.dataset.position;
  document.getElementById("strip").replaceChildren(strip);
  if (before) strip.querySelector(`[data-position="${before}"]`).focus();
  document.getElementById("read").hidden = false;
  const said = chosen.size ? `By ${chosen.size} of ${tokens.length} tokens; click them again to let go` : "By all tokens; click some to search by those alone";
  document.getElementById("read-title").textContent = said;
}

function onStrip(event) {
  const token = event.target.closest(".t");
  if (!token) return;
  const place = Number(token.dataset.position) - 1;
  if (!chosen.delete(place)) chosen.add(place);
  find();
}

// j and k go from one feature found to the next; Enter then follows the link.
function step(event) {
  event.preventDefault();
  const links = [...list.querySelectorAll("a.to")];
  const at = links.indexOf(document.activeElement);
  links[Math.min(Math.max(at + event.detail, 0), links.length - 1)]?.focus();
}

function showWhose() {
  for (const part of form.querySelectorAll("[data-of]")) part.hidden = !part.dataset.of.split(" ").includes(value("of"));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  chosen.clear();
  find();
});
form.addEventListener("change", (event) => {
  if (event.target.name === "of") showWhose();
  if (event.target.matches("select, [name=of], [name=sites]")) find();
});
form.addEventListener("click", (event) => {
  if (!event.target.dataset.text) return;
  fields.text.value = event.target.dataset.text;
  form.requestSubmit();
});
form.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.target.tagName !== "TEXTAREA") return;
  event.preventDefault();
  form.requestSubmit();
});
more.onclick = () => find(list.children.length);
shares(document.getElementById("share"));
document.getElementById("strip").addEventListener("click", onStrip);
document.addEventListener("step", step);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !chosen.size) return;
  chosen.clear();
  find();
});
readAddress();
showWhose();
if (isAsked()) find();

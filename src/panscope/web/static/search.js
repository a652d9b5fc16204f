// The search page: one form of four, and the features that it found, a window at a time.
//
// What was asked stands in the address under the names of the form's fields; `tokens` are the chosen
// places of a text.
import { address } from "./address.js";
import { ask, cancel, sayFailure } from "./ask.js";
import { count, density, number } from "./numbers.js";
import { element, remember } from "./page.js";
import { glyphs, wholeStrip } from "./strip.js";

const WINDOW = 50;
const MEASURES = { share: "Share of max", value: "Value", sum: "Sum", direction: "Cosine" };
const form = document.getElementById("search");
const { by } = form.dataset;
const fields = form.elements;
const status = document.getElementById("status");
const results = document.getElementById("results");
const body = document.querySelector("#hits tbody");
const more = document.getElementById("more");
const usual = Object.fromEntries(named().map((field) => [field.name, field.value]));
const chosen = new Set();

function named() {
  return [...fields].filter((field) => field.name);
}

function readAddress() {
  const query = new URLSearchParams(location.search);
  for (const field of named()) if (query.has(field.name)) field.value = query.get(field.name);
  for (const place of (query.get("tokens") ?? "").split(",").filter(Boolean)) chosen.add(Number(place));
}

function keep() {
  const state = Object.fromEntries(named().map((field) => [field.name, field.value === usual[field.name] ? null : field.value]));
  remember({ ...state, tokens: [...chosen].sort((a, b) => a - b).join(",") });
}

const value = (name) => fields[name]?.value.trim() ?? "";

function isAsked() {
  return by === "numbers" || Boolean(value("text") || value("feature"));
}

// What to ask of the API: a path, and a body for the searches that run the model.
function asked(offset) {
  const window = { offset, limit: WINDOW };
  if (by === "words") return [`/api/search/labels?${new URLSearchParams({ text: value("text"), ...window })}`];
  if (by === "numbers") return [`/api/search/features?${numbers(window)}`];
  if (by === "text") {
    const body_ = { text: fields.text.value, sites: value("sites"), tokens: [...chosen], by: value("rank"), max_density: Number(value("density")), limit: 10 * WINDOW };
    return ["/api/search/prompt", body_];
  }
  const [, sae, index] = /^(.*)\/(\d+)$/.exec(value("feature")) ?? [];
  if (value("feature") && !sae) throw new Error("A feature is written as site/name/index, resid_post.1/w64_l0_30_s0/7 for one");
  const what = sae ? { sae, index: Number(index) } : { text: value("text"), without: value("without"), site: value("site") };
  return ["/api/search/direction", { ...what, sites: value("sites"), limit: 2 * WINDOW }];
}

function numbers(window) {
  const query = new URLSearchParams({ text: value("text"), sites: value("sites"), ...window });
  const scales = { low: 100, high: 100, max_low: 1, max_high: 1, min_score: 1 };
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
  keep();
  document.getElementById("start").hidden = isAsked();
  if (!isAsked()) return clear();
  const timer = setTimeout(sayRunning, 100);
  try {
    const found = await ask(...withKey(asked(offset)));
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

const withKey = ([path, sent = null]) => [path, sent, "find"];

function sayRunning() {
  const stop = element("button", { type: "button", textContent: "Cancel", onclick: () => cancel("find") || (status.hidden = true) });
  status.hidden = false;
  const live = by === "text" || by === "direction";
  status.replaceChildren(live ? "Running the model; the first time it is loaded, which takes some seconds. " : "Searching. ", stop);
}

function clear() {
  cancel("find");
  for (const part of [results, status, document.getElementById("read")]) part.hidden = true;
}

function show(found, offset) {
  if (offset === 0) body.replaceChildren();
  body.append(...found.hits.map((hit) => rowElement(hit, found.pieces)));
  results.hidden = false;
  const measure = by === "text" ? MEASURES[value("rank")] : (MEASURES[by] ?? "");
  for (const cell of document.querySelectorAll("#measure, .c-measure")) cell.hidden = !measure;
  document.getElementById("measure").textContent = measure;
  more.hidden = body.children.length >= found.total || by === "text" || by === "direction";
  document.getElementById("results-title").textContent = title(found);
  if (by === "text") drawStrip(found.tokens);
}

function title({ total, hits, offset }) {
  if (total === 0) return "None found; try fewer or other words, or wider bounds";
  const shown = offset + hits.length;
  if (by === "words") return `${shown} ${shown === 1 ? "feature" : "features"}, best match first`;
  if (shown === total) return `${count(total)} ${total === 1 ? "feature" : "features"}`;
  return `The first ${count(shown)} of ${count(total)} features`;
}

function pieces(ids, of) {
  return ids.slice(0, 3).flatMap((id) => [element("span", { className: "piece" }, glyphs(of[id])), " "]);
}

function rowElement({ sae, row, label, value: found }, of) {
  const number_ = (shown, exact, name = "n") => element("td", { className: name, textContent: shown, title: exact });
  return element(
    "tr",
    {},
    element("td", { className: "mono" }, element("a", { href: address(`/sae/${sae}`), textContent: sae, tabIndex: -1 })),
    element("td", { className: "n" }, element("a", { href: address(`/sae/${sae}/${row.index}`), textContent: row.index, className: "to" })),
    number_(number(found), found, "n c-measure"),
    element("td", { className: "c-label", textContent: label || "–" }),
    element("td", {}, ...pieces(row.peak_tokens, of)),
    element("td", {}, ...pieces(row.top_tokens, of)),
    number_(row.density ? density(row.density) : "dead", row.density),
    number_(number(row.max), row.max),
  );
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
  const links = [...body.querySelectorAll("a.to")];
  const at = links.indexOf(document.activeElement);
  links[Math.min(Math.max(at + event.detail, 0), links.length - 1)]?.focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  chosen.clear();
  find();
});
form.addEventListener("change", (event) => event.target.matches("select, #search [name=sites]") && find());
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
more.onclick = () => find(body.children.length);
document.getElementById("strip").addEventListener("click", onStrip);
document.addEventListener("step", step);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !chosen.size) return;
  chosen.clear();
  find();
});
readAddress();
if (isAsked()) find();

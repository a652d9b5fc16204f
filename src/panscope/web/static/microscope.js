// The microscope: a text, and the strongest features of each token at every site and layer.
//
// In view are a `token` (a place in the text) and a `feature` ("sae:index"). What is pointed at wins
// over what is pinned. A token stays in view when the pointer leaves it, so that one can go on to its
// features; a feature does not. Pins, text and settings are in the address.
import { address } from "./address.js";
import { ask, cancel, sayFailure } from "./ask.js";
import { density, number } from "./numbers.js";
import { data, element, remember } from "./page.js";
import { describe, glyphs, shade, visible, wholeStrip } from "./strip.js";

const { saes } = data();
const form = document.getElementById("ask");
const fields = form.elements;
const reading = document.getElementById("reading");
const stripPlace = document.getElementById("strip");
const sites = document.getElementById("sites");
const status = document.getElementById("status");
const saying = document.getElementById("saying");
const DEFAULTS = { k: "5", density: "1", name: fields.name?.options[0]?.value };
const pinned = { token: null, feature: null };
const pointed = { token: null, feature: null };
let seen = null; // the answer: tokens, ids, saes
let strip = [];

function readAddress() {
  const query = new URLSearchParams(location.search);
  fields.text.value = query.get("text") ?? "";
  for (const key of ["k", "density", "name"]) if (fields[key]) fields[key].value = query.get(key) ?? DEFAULTS[key];
  pinned.token = query.has("token") ? Number(query.get("token")) : null;
  pinned.feature = query.get("feature");
}

function keep() {
  const state = { text: fields.text.value, token: pinned.token, feature: pinned.feature };
  for (const [key, usual] of Object.entries(DEFAULTS)) if (fields[key]) state[key] = fields[key].value === usual ? null : fields[key].value;
  remember(state);
}

// One Sae a site: the chosen name where the site has it, else the site's first.
function chosenSaes() {
  const bySite = Map.groupBy(saes, (sae) => sae.site);
  const wanted = fields.name?.value;
  return [...bySite.values()].map((some) => (some.find((sae) => sae.sae.endsWith(`/${wanted}`)) ?? some[0]).sae);
}

async function look() {
  keep();
  document.getElementById("start").hidden = Boolean(fields.text.value.trim());
  if (!fields.text.value.trim()) return clearAll();
  const stop = element("button", { type: "button", textContent: "Cancel", onclick: () => cancel("look") || (status.hidden = true) });
  const timer = setTimeout(() => {
    status.hidden = false;
    status.replaceChildren("Running the model; the first time it is loaded, which takes some seconds. ", stop);
  }, 100);
  const body = { text: fields.text.value, k: Number(fields.k.value) || 5, max_density: Number(fields.density.value), saes: chosenSaes() };
  try {
    seen = await ask("/api/microscope", body, "look");
    clearTimeout(timer);
    show();
  } catch (error) {
    clearTimeout(timer);
    sayFailure(status, error, look);
  }
}

function clearAll() {
  cancel("look");
  seen = null;
  for (const part of [reading, sites, status]) part.hidden = true;
}

function show() {
  status.hidden = !seen.note;
  status.textContent = seen.note && `The text was ${seen.note}.`;
  for (const part of [reading, sites]) part.hidden = false;
  const tokens = seen.tokens.map((piece, n) => ({ piece, id: seen.ids[n], position: n + 1, value: 0 }));
  const made = wholeStrip(tokens, 0);
  strip = [...made.querySelectorAll(".t")];
  stripPlace.replaceChildren(made);
  if (pinned.token !== null && !strip[pinned.token]) pinned.token = null;
  drawSites();
  drawStrip();
}

function parsed(key) {
  const cut = key.lastIndexOf(":");
  const sae = seen.saes.find((one) => one.sae === key.slice(0, cut));
  const found = sae?.features.find((feature) => feature.index === Number(key.slice(cut + 1)));
  return found && { sae: sae.sae, ...found };
}

function drawStrip() {
  const key = pointed.feature ?? pinned.feature;
  const feature = key && parsed(key);
  const top = feature ? Math.max(...feature.values) : 0;
  const values = new Map(feature ? feature.positions.map((place, n) => [place, feature.values[n]]) : []);
  const token = pointed.token ?? pinned.token;
  strip.forEach((made, place) => {
    const value = values.get(place) ?? 0;
    shade(made, value, top);
    made.classList.toggle("peak", value > 0 && value === top);
    made.classList.toggle("lit", place === token);
    made.setAttribute("aria-pressed", String(place === pinned.token));
    const about = { piece: seen.tokens[place], id: seen.ids[place], position: place + 1, value };
    made.dataset.tip = feature ? describe(about, top) : `position ${place + 1}\ntoken ${about.id} ${visible(about.piece)}`;
    made.setAttribute("aria-label", `${visible(about.piece)}${value ? ` ${number(value)}` : ""}`);
  });
  document.getElementById("scale-top").textContent = feature ? number(top) : "max";
  saying.textContent = sayFeature(feature, top);
}

function sayFeature(feature, top) {
  if (!feature) return "Shades appear when you point at a feature below.";
  const share = feature.max ? `, ${number((100 * top) / feature.max)} % of the most it ever did` : "";
  return `Feature ${feature.index} of ${feature.sae} fires on ${feature.positions.length} of these tokens, at most ${number(top)}${share}; in general on ${density(feature.density)}${feature.density >= 1e-4 ? " of tokens" : ""}.`;
}

// What a site lists: the strongest of the token in view, or of the whole text.
function listed(sae) {
  const token = pointed.token ?? pinned.token;
  if (token !== null) {
    const at = (feature) => feature.values[feature.positions.indexOf(token)];
    return sae.strongest[token].map((place) => ({ ...sae.features[place], value: at(sae.features[place]) }));
  }
  const withTop = sae.features.map((feature) => ({ ...feature, value: Math.max(...feature.values) }));
  return withTop.toSorted((a, b) => b.value - a.value).slice(0, Number(fields.k.value) || 5);
}

function drawSites() {
  const kinds = [...new Set(seen.saes.map((sae) => sae.site.split(".")[0]))];
  sites.style.gridTemplateColumns = `repeat(${kinds.length}, minmax(0, 1fr))`;
  const token = pointed.token ?? pinned.token;
  const what = token === null ? "the whole text" : `token ${token + 1} ${visible(seen.tokens[token])}`;
  sites.setAttribute("aria-label", `Strongest features on ${what}, by site`);
  document.getElementById("reading-title").textContent =
    token === null
      ? "Strongest anywhere in the text. Point at a token to see its features, at a feature to see its tokens; click pins"
      : `Strongest on “${visible(seen.tokens[token])}”${pinned.token === token ? ", pinned" : ""}`;
  document.getElementById("whole").hidden = token === null;
  sites.replaceChildren(...seen.saes.map(siteElement));
}

function siteElement(sae) {
  const list = element("ol");
  const features = listed(sae);
  const top = Math.max(...sae.features.flatMap((feature) => feature.values), 0);
  list.append(...features.map((feature) => featureElement(sae, feature, top)));
  if (!features.length) list.append(element("li", { className: "none", textContent: "silent here" }));
  const link = element("a", { href: address(`/sae/${sae.sae}`), textContent: sae.site, title: sae.sae });
  const column = element("section", { className: "site" }, element("h3", {}, link), list);
  column.dataset.site = sae.site;
  return column;
}

function featureElement(sae, feature, top) {
  const key = `${sae.sae}:${feature.index}`;
  const bar = element("span", { className: "bar" });
  bar.style.setProperty("--w", feature.value / top);
  const label = element("span", { className: "label" });
  for (const piece of feature.label) label.append(element("span", { className: "piece" }, glyphs(piece)), " ");
  const pick = element("button", { type: "button", className: "pick" }, bar, label, element("span", { className: "n", textContent: number(feature.value) }));
  pick.dataset.key = key;
  pick.dataset.tip = `feature ${feature.index}\nvalue ${feature.value}\ndensity ${density(feature.density)}\nfires most on ${feature.label.map(visible).join(" ")}`;
  pick.setAttribute("aria-pressed", String(key === pinned.feature));
  pick.setAttribute("aria-label", `Feature ${feature.index}, ${number(feature.value)}, fires most on ${feature.label.join(" ")}`);
  return element("li", {}, element("a", { href: address(`/sae/${sae.sae}/${feature.index}`), textContent: feature.index, className: "n" }), pick);
}

function pointAtToken(place) {
  if (pointed.token === place) return;
  pointed.token = place;
  drawSites();
  drawStrip();
}

function pointAtFeature(key) {
  if (pointed.feature === key) return;
  pointed.feature = key;
  drawStrip();
}

function pinToken(place) {
  pinned.token = pinned.token === place ? null : place;
  pointed.token = pinned.token;
  keep();
  drawSites();
  drawStrip();
}

function pinFeature(key) {
  pinned.feature = pinned.feature === key ? null : key;
  keep();
  for (const pick of sites.querySelectorAll(".pick")) pick.setAttribute("aria-pressed", String(pick.dataset.key === pinned.feature));
  drawStrip();
}

function letGo() {
  if (!seen) return;
  Object.assign(pinned, { token: null, feature: null });
  Object.assign(pointed, { token: null, feature: null });
  keep();
  drawSites();
  drawStrip();
}

const placeOf = (event) => {
  const token = event.target.closest?.(".t");
  return token ? Number(token.dataset.position) - 1 : null;
};
const keyOf = (event) => event.target.closest?.(".pick")?.dataset.key ?? null;
// A page that scrolls moves under a resting pointer; that must not take from the keyboard what it shows.
const focused = () => sites.querySelector(".pick:focus-visible")?.dataset.key ?? null;

for (const kind of ["pointerover", "focusin"]) {
  stripPlace.addEventListener(kind, (event) => event.pointerType !== "touch" && placeOf(event) !== null && pointAtToken(placeOf(event)));
  sites.addEventListener(kind, (event) => event.pointerType !== "touch" && pointAtFeature(keyOf(event) ?? focused()));
}
sites.addEventListener("pointerleave", () => pointAtFeature(focused()));
sites.addEventListener("focusout", () => pointAtFeature(null));
stripPlace.addEventListener("click", (event) => placeOf(event) !== null && pinToken(placeOf(event)));
sites.addEventListener("click", (event) => keyOf(event) && pinFeature(keyOf(event)));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  Object.assign(pinned, { token: null, feature: null });
  Object.assign(pointed, { token: null, feature: null });
  look();
});
form.addEventListener("change", (event) => event.target !== fields.text && look());
form.addEventListener("click", (event) => {
  if (!event.target.dataset.text) return;
  fields.text.value = event.target.dataset.text;
  form.requestSubmit();
});
fields.text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey) return;
  event.preventDefault();
  form.requestSubmit();
});
document.getElementById("whole").onclick = letGo;
document.addEventListener("keydown", (event) => event.key === "Escape" && letGo());
document.addEventListener("step", (event) => {
  event.preventDefault();
  if (!seen) return;
  const from = pinned.token ?? (event.detail > 0 ? -1 : seen.tokens.length);
  const to = Math.min(Math.max(from + event.detail, 0), seen.tokens.length - 1);
  if (to !== pinned.token) pinToken(to);
  strip[to].scrollIntoView({ block: "nearest" });
});
readAddress();
if (fields.text.value) look();

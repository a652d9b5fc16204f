// The Sae page: a list of features of any length, its filters, and the charts beside it.
import { address } from "./address.js";
import { ask, sayFailure } from "./ask.js";
import { onWidth } from "./axes.js";
import { bars, curve } from "./charts.js";
import { count, density, densityTick, number, percent } from "./numbers.js";
import { drawMap } from "./map.js";
import { data, element, remember } from "./page.js";
import { Rows } from "./rows.js";
import { glyphs } from "./strip.js";

const { sae, densities } = data();
const form = document.getElementById("query");
const list = document.getElementById("list");
const found = document.getElementById("found");
const csv = document.getElementById("csv");
const state = readAddress();
const SIDES = ["left", "bottom", "right", "top"];
let redrawDensities = () => {};
let redrawMap = () => {};

function readAddress() {
  const query = new URLSearchParams(location.search);
  const sort = query.get("sort") ?? "-density";
  return {
    sort: sort.replace("-", ""),
    descending: sort.startsWith("-"),
    text: query.get("text") ?? "",
    low: query.get("low") ?? "",
    high: query.get("high") ?? "",
    alive: query.get("alive") !== "0",
    box: readBox(query.get("box")),
  };
}

// A box on the map stands in the address as left,bottom,right,top.
function readBox(text) {
  const sides = (text ?? "").split(",").map(Number);
  return sides.length === 4 && sides.every(Number.isFinite) ? Object.fromEntries(sides.map((side, n) => [["left", "bottom", "right", "top"][n], side])) : null;
}

// Densities stand in the address and the fields as per cent, and go to the API as shares.
function asked() {
  const query = new URLSearchParams({ sort: state.sort, descending: state.descending, alive: state.alive });
  if (state.text) query.set("text", state.text);
  for (const key of ["low", "high"]) if (state[key] !== "") query.set(key, String(Number(state[key]) / 100));
  for (const side of state.box ? SIDES : []) query.set(side, state.box[side]);
  return query;
}

function keep() {
  const sort = (state.descending ? "-" : "") + state.sort;
  remember({ sort: sort === "-density" ? null : sort, text: state.text, low: state.low, high: state.high, alive: state.alive ? null : "0", box: state.box && SIDES.map((side) => Number(state.box[side].toPrecision(5))).join(",") });
}

const rows = new Rows(list.querySelector(".list-body"), {
  load: async (offset, limit) => {
    const query = asked();
    query.set("offset", offset);
    query.set("limit", limit);
    const page = await ask(`/api/sae/${sae.sae}/features?${query}`, null, `rows ${offset}`);
    sayFound(page);
    return page;
  },
  render: rowElement,
  skeleton: () => element("div", { className: "row wait" }, ...Array.from({ length: 4 }, () => element("span"))),
  failed: (error) => sayFailure(found, error, refresh),
});

function cell(className, ...children) {
  const made = element("span", { className }, ...children);
  made.setAttribute("role", "cell");
  return made;
}

function pieces(ids, page) {
  return ids.map((id) => element("span", { className: "piece" }, glyphs(page.pieces[id])));
}

function rowElement(row, page) {
  const link = element("a", { href: address(`/sae/${sae.sae}/${row.index}`), textContent: row.index, tabIndex: -1 });
  const made = element(
    "div",
    { className: "row" },
    cell("n c-index", link),
    cell("n c-density", row.density ? density(row.density) : "dead"),
    cell("n c-max", number(row.max)),
    cell("n c-mean", number(row.mean)),
    cell("c-peak", ...pieces(row.peak_tokens, page)),
    cell("c-top", ...pieces(row.top_tokens.slice(0, 4), page)),
  );
  made.children[1].title = row.density;
  made.children[2].title = row.max;
  made.children[3].title = row.mean;
  made.setAttribute("role", "row");
  made.onclick = (event) => event.target.closest("a") ?? link.click();
  return made;
}

function sayFound(page) {
  const none = page.nearest ? `None; ${page.nearest}` : "None: widen the filters";
  found.textContent = page.total ? `${count(page.total)} of ${count(sae.width)}` : none;
  list.setAttribute("aria-rowcount", page.total + 1);
}

function refresh() {
  keep();
  const query = asked();
  csv.href = address(`/api/sae/${sae.sae}/features.csv?${query}`);
  for (const header of list.querySelectorAll("[data-key]")) {
    if (header.dataset.key === state.sort) header.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    else header.removeAttribute("aria-sort");
  }
  redrawDensities();
  redrawMap(state.box);
  document.getElementById("box").hidden = !state.box;
  return rows.reset();
}

function fillForm() {
  for (const key of ["text", "low", "high"]) form.elements[key].value = state[key];
  form.elements.alive.checked = state.alive;
}

function readForm() {
  state.text = form.elements.text.value;
  for (const key of ["low", "high"]) {
    const typed = form.elements[key];
    const value = typed.value.trim().replace(",", ".");
    const isWrong = value !== "" && !(Number(value) >= 0 && Number(value) <= 100);
    typed.setCustomValidity(isWrong ? "a number from 0 to 100" : "");
    if (isWrong) return typed.reportValidity();
    state[key] = value;
  }
  state.alive = form.elements.alive.checked;
  return refresh();
}

function onHeader(key) {
  state.descending = state.sort === key ? !state.descending : key !== "index";
  state.sort = key;
  refresh();
}

// A bar's edges in per cent, widened by a hair so that its own features are inside.
function chosenRange(low, high) {
  return { low: Number((100 * 10 ** low * 0.999999).toPrecision(7)), high: Number((100 * 10 ** high * 1.000001).toPrecision(7)) };
}

function drawDensities() {
  const { edges, counts, n_dead: dead } = densities;
  const alive = counts.reduce((sum, n) => sum + n, 0);
  const title = document.getElementById("density-title");
  title.textContent = alive ? `${count(alive)} features are alive, ${count(dead)} (${percent(dead / sae.width)}) dead` : "All features are dead";
  const host = document.getElementById("densities");
  const link = (low, high) => `?${new URLSearchParams(chosenRange(low, high))}`;
  const chosen = (low, high) => state.low === String(chosenRange(low, high).low) && state.high === String(chosenRange(low, high).high);
  const say = (low, high, n) => `${count(n)} features\n${density(10 ** low)} to ${density(10 ** high)}`;
  const draw = (width) =>
    bars(width, { edges, counts, xTitle: "density: share of tokens (log axis)", yTitle: "features", xFormat: densityTick, say, link, chosen });
  redrawDensities = () => host.clientWidth > 50 && host.replaceChildren(draw(Math.floor(host.clientWidth)));
  onWidth(host, draw);
  host.addEventListener("click", (event) => {
    const bar = event.target.closest("a");
    if (!bar) return;
    event.preventDefault();
    const wanted = new URLSearchParams(bar.getAttribute("href"));
    const again = state.low === wanted.get("low") && state.high === wanted.get("high");
    Object.assign(state, again ? { low: "", high: "" } : { low: wanted.get("low"), high: wanted.get("high") });
    fillForm();
    refresh();
  });
}

function drawPositions() {
  const { position_l0: l0, position_fvu: fvu } = sae.metrics ?? {};
  for (const [key, values, name] of [["l0", l0, "L0"], ["fvu", fvu, "FVU"]]) {
    const host = document.getElementById(`position-${key}`);
    if (!host || !values?.some((value) => value !== null)) continue;
    const known = values.filter((value) => value !== null);
    const mean = (some) => some.reduce((sum, value) => sum + value, 0) / some.length;
    const [early, late] = [mean(known.slice(0, 4)), mean(known.slice(Math.floor(known.length / 2)))];
    const change = Math.abs(early / late - 1) < 0.1 ? "about the same early and late in a text" : early > late ? "higher early in a text" : "lower early in a text";
    document.getElementById(`position-${key}-title`).textContent = `${name} is ${change}`;
    const say = (i, value) => `position ${i}\n${name} ${number(value)}`;
    onWidth(host, (width) => curve(width, { values, xTitle: "position in the text (BOS is 0)", yTitle: name, say }));
  }
}

async function startMap() {
  const host = document.getElementById("map");
  if (!host) return;
  const onBox = (box) => {
    state.box = box;
    refresh();
  };
  try {
    redrawMap = await drawMap(host, sae.sae, onBox);
    redrawMap(state.box);
  } catch (error) {
    sayFailure(host, error, startMap);
  }
}

let typing = 0;
form.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(readForm, 150);
});
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => {
  state.box = null;
  setTimeout(readForm);
});
for (const header of list.querySelectorAll("[data-key]")) header.querySelector("button").onclick = () => onHeader(header.dataset.key);
document.addEventListener("step", (event) => {
  event.preventDefault();
  rows.mark(event.detail);
  list.querySelector(".list-body").focus({ preventScroll: true });
});
list.querySelector(".list-body").addEventListener("keydown", (event) => {
  const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15 }[event.key];
  if (event.key === "Enter") rows.open();
  if (!by) return;
  event.preventDefault();
  rows.mark(by);
});
fillForm();
drawDensities();
drawPositions();
refresh();
startMap();

// The suite page: the plot of fidelity against sparsity, and the table that sorts and filters in place.
import { address } from "./address.js";
import { onWidth, svg } from "./axes.js";
import { scatter, shape } from "./charts.js";
import { number } from "./numbers.js";
import { data, remember } from "./page.js";

const saes = data();
const query = new URLSearchParams(location.search);
const NAMES = { delta_loss: "Delta loss (nats a token)", fvu: "FVU (share of variance)", kl: "KL (nats a token)" };
const kindOf = (sae) => sae.site.split(".")[0];
const layerOf = (sae) => sae.site.split(".")[1] ?? "";
const hidden = new Set((query.get("hide") ?? "").split(",").filter(Boolean));
const table = document.getElementById("saes");
const rows = [...table.tBodies[0].rows];
const filter = document.getElementById("filter");

function pointOf(sae, key, isWide) {
  const { l0, [key]: value, [`${key}_se`]: error } = sae.metrics;
  const spread = error ? ` ± ${number(error, 2)}` : "";
  return {
    x: l0,
    y: value,
    href: sae.described ? address(`/sae/${sae.sae}`) : "#table-title",
    kind: kindOf(sae),
    text: isWide ? sae.site : layerOf(sae),
    line: `${sae.site} ${sae.width}`,
    say: `${sae.sae}\nL0 ${number(l0)}\n${NAMES[key].split(" (")[0]} ${number(value)}${spread}`,
  };
}

function drawPlot() {
  const host = document.getElementById("plot");
  const axis = document.getElementById("y-axis");
  const draw = (width) => {
    const shown = saes.filter((sae) => sae.metrics?.l0 > 0 && Number.isFinite(sae.metrics[axis.value]) && !hidden.has(kindOf(sae)));
    if (!shown.length) return Object.assign(document.createElement("p"), { className: "empty", textContent: "Nothing to show: turn a kind of site on." });
    const isWide = width > 640;
    const points = shown.map((sae) => pointOf(sae, axis.value, isWide));
    const yTitle = NAMES[axis.value] + (isWide ? "" : "; numbers are layers");
    return scatter(width, { points, xTitle: "L0: active features a token (log axis)", yTitle, best: "↙ best", right: isWide ? 110 : 28 });
  };
  const again = () => host.replaceChildren(draw(Math.floor(host.clientWidth)));
  axis.value = query.get("y") ?? "delta_loss";
  axis.onchange = () => {
    remember({ y: axis.value === "delta_loss" ? null : axis.value });
    again();
  };
  drawLegend(again);
  onWidth(host, draw);
}

function drawLegend(again) {
  const legend = document.getElementById("legend");
  for (const kind of new Set(saes.map(kindOf))) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(svg("svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true" }, svg("path", { d: shape(kind) })), kind);
    button.setAttribute("aria-pressed", String(!hidden.has(kind)));
    button.onclick = () => {
      if (!hidden.delete(kind)) hidden.add(kind);
      button.setAttribute("aria-pressed", String(!hidden.has(kind)));
      remember({ hide: [...hidden].join(",") });
      again();
    };
    legend.append(button);
  }
}

// Rows sort by what a cell says it is worth; cells without a value come last.
function sortTable(header, descending) {
  const column = header.cellIndex;
  const worth = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const sign = descending ? -1 : 1;
  rows.sort((a, b) => {
    const [one, two] = [worth(a), worth(b)];
    if (one === "" || two === "") return (one === "") - (two === "");
    const numeric = Number(one) - Number(two);
    return sign * (Number.isNaN(numeric) ? one.localeCompare(two, "en", { numeric: true }) : numeric);
  });
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  table.tBodies[0].append(...rows);
}

function onHeader(header) {
  const descending = header.getAttribute("aria-sort") === "ascending";
  sortTable(header, descending);
  remember({ sort: (descending ? "-" : "") + header.dataset.key });
}

function applyFilter() {
  const wanted = filter.value.trim().toLowerCase();
  for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  const none = document.getElementById("none");
  none.hidden = rows.some((row) => !row.hidden);
  none.textContent = none.hidden ? "" : `No Sae matches “${filter.value}”; the sites are ${[...new Set(saes.map((sae) => sae.site))].slice(0, 6).join(", ")}.`;
  remember({ filter: wanted });
}

function mark(by) {
  const shown = rows.filter((row) => !row.hidden);
  const at = shown.findIndex((row) => row.classList.contains("marked"));
  const next = shown[Math.min(Math.max(at + by, 0), shown.length - 1)];
  if (!next) return;
  shown[at]?.classList.remove("marked");
  next.classList.add("marked");
  next.querySelector("a")?.focus();
  next.scrollIntoView({ block: "nearest" });
}

function lightPoint(row, on) {
  const href = row.querySelector("a")?.getAttribute("href");
  document.querySelector(`.point[href="${CSS.escape(href ?? "")}"]`)?.classList.toggle("lit", on);
}

if (document.getElementById("plot")) drawPlot();
for (const header of table.tHead.rows[0].cells) header.querySelector("button").onclick = () => onHeader(header);
const sort = query.get("sort");
const sorted = sort && table.querySelector(`th[data-key="${CSS.escape(sort.replace("-", ""))}"]`);
if (sorted) sortTable(sorted, sort.startsWith("-"));
filter.value = query.get("filter") ?? "";
filter.oninput = applyFilter;
if (filter.value) applyFilter();
for (const row of rows) {
  row.onpointerenter = () => lightPoint(row, true);
  row.onpointerleave = () => lightPoint(row, false);
}
document.addEventListener("step", (event) => {
  event.preventDefault();
  mark(event.detail);
});

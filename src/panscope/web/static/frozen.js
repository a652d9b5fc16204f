// Stands in for ask.js in a frozen copy: answers come from the page itself, the rest needs a server.
import { address } from "./address.js";
import { sentence } from "./page.js";

const { hits = [], pieces } = embedded("rows");
const answers = { "/api/writing": { writable: false, accepted: false }, ...embedded("answers") };

function embedded(name) {
  const place = document.getElementById(name);
  return place ? JSON.parse(place.textContent) : {};
}

export async function ask(path) {
  if (answers[path]) return answers[path];
  const [name, text] = path.split("?");
  const query = new URLSearchParams(text);
  if (pieces && name.endsWith("/features")) return found(sorted(hits.filter((hit) => answersTo(hit, query)), query), query);
  if (pieces && name === "/api/search/labels") return found(hits.filter((hit) => says(hit, query)), query);
  throw new Error("This needs a running server: panscope serve");
}

// A window on what was found, as lists of one Sae and searches through all take it.
function found(all, query) {
  const offset = Number(query.get("offset"));
  const shown = all.slice(offset, offset + Number(query.get("limit") ?? all.length));
  return { total: all.length, offset, hits: shown, rows: shown.map((hit) => hit.row), pieces, nearest: "", note: "" };
}

function sorted(all, query) {
  const key = query.get("sort") ?? "index";
  const sign = query.get("descending") === "true" ? -1 : 1;
  return all.sort((a, b) => sign * (a.row[key] - b.row[key]) || a.row.index - b.row.index);
}

function answersTo(hit, query) {
  const { row, place, sae, scores } = hit;
  const isWithin = (value, low, high) => value >= Number(query.get(low) ?? -Infinity) && value <= Number(query.get(high) ?? Infinity);
  const site = sae.split("/")[0];
  const score = query.get("scorer") ? scores[query.get("scorer")] : Math.max(...Object.values(scores));
  if (query.get("alive") === "true" && !row.density) return false;
  if (query.has("layer") && !site.endsWith(`.${query.get("layer")}`)) return false;
  if ((query.has("min_score") || query.has("max_score")) && !isWithin(score, "min_score", "max_score")) return false;
  if (place && !(isWithin(place[0], "left", "right") && isWithin(place[1], "bottom", "top"))) return false;
  return isWithin(row.density, "low", "high") && isWithin(row.max, "max_low", "max_high") && isAt(site, query.get("sites")) && mentions(row, query.get("text"));
}

function isAt(site, pattern) {
  const escaped = (pattern || "*").replace(/[.+^${}()|\\]/g, "\\$&");
  return new RegExp(`^${escaped.replaceAll("*", ".*").replaceAll("?", ".")}$`).test(site);
}

function mentions(row, typed) {
  const text = typed?.replaceAll("·", " ").replaceAll("↵", "\n").toLowerCase();
  return !text || [...row.top_tokens, ...row.peak_tokens].some((id) => pieces[id].toLowerCase().includes(text));
}

// All words begin words of the label; “in quotes” they stand in it as they are.
function says({ sae, label }, query) {
  if (query.get("sae") && query.get("sae") !== sae) return false;
  const wanted = query.get("text").toLowerCase().match(/["“][^"”]+["”]|[^\s"“”]+/g) ?? [];
  const words = label.toLowerCase().split(/[^\p{L}\p{N}]+/u);
  return wanted.every((part) => (/^["“]/.test(part) ? label.toLowerCase().includes(part.slice(1, -1)) : words.some((word) => word.startsWith(part))));
}

export async function askPlaces() {
  const placed = hits.filter((hit) => hit.place);
  const column = (value) => Float32Array.from(placed, value);
  return { indices: Uint32Array.from(placed, ({ row }) => row.index), xs: column(({ place }) => place[0]), ys: column(({ place }) => place[1]), logs: column(({ row }) => Math.log10(row.density)) };
}

export function cancel() {}

export function sayFailure(place, error) {
  place.hidden = false;
  place.replaceChildren(sentence(error));
}

// A server fills the page of searches by their kind, which a form may name; here each is a page.
const search = document.getElementById("search");
const kind = new URLSearchParams(location.search).get("by");
if (search && kind && kind !== search.dataset.by) location.replace(address(`/search/${kind}`) + location.search);

// The edits of the steering page: an edit as the API takes it is a row of fields, and back.
//
// What a row shows goes by three of its fields: what is changed, how, and at which tokens. An element
// with data-for is shown if one of the words there is among these.
import { address } from "./address.js";
import { ask } from "./ask.js";
import { number, percent } from "./numbers.js";
import { data, element, sentence } from "./page.js";
import { problemOf, refuse, settle } from "./refuse.js";
import { visible, wholeStrip } from "./strip.js";

const { saes } = data();
const list = document.getElementById("edits");
const prompt = document.getElementById("ask").elements.prompt;
const PLAIN = ["sae", "index", "site", "toward", "away", "value", "low", "high", "source"];
// Which field a word of a refusal means.
const FIELD_OF = { Sae: "sae", feature: "index", position: "positions", direction: "direction", ...Object.fromEntries(PLAIN.map((name) => [name, name])) };
const TYPED = /^(.*)[:/](\d+)(?:([*+=])(-?[\d.]+(?:e-?\d+)?))?$/;

export const rows = () => [...list.children];
const fieldOf = (row, name) => row.querySelector(`[name="${name}"]`);
const valueOf = (row, name) => fieldOf(row, name).value;
const actionOf = (row) => valueOf(row, "change").split(" ")[0];
const changed = () => list.dispatchEvent(new Event("change", { bubbles: true }));

// An edit as typed on the command line; without a strength it adds three times the maximum.
export function parsed(text, at) {
  const [, sae, index, sign = "*", value = 3] = TYPED.exec(text) ?? [];
  if (sae === undefined) return [];
  const how = { "*": { action: "add", unit: "max" }, "+": { action: "add" }, "=": { action: "set" } }[sign];
  return [{ sae, index: Number(index), ...how, value: Number(value), at }];
}

export function addRow(edit = { action: "add", unit: "max", value: 3 }) {
  const row = document.getElementById("row").content.firstElementChild.cloneNode(true);
  list.append(row);
  fill(row, edit);
  row.querySelector(".remove").onclick = () => (row.remove(), changed());
  row.addEventListener("input", ({ target }) => update(row, target));
  show(row);
  tell(row);
  return row;
}

export function replaceRows(edits) {
  list.replaceChildren();
  edits.forEach((edit) => addRow(edit));
  changed();
}

function fill(row, edit) {
  const at = Array.isArray(edit.at) ? "tokens" : (edit.at ?? "all");
  const [, sae, index] = TYPED.exec(edit.along ?? "") ?? [null, edit.sae ?? saes[0].sae, edit.index ?? 0];
  // Another suite's feature keeps its name, and is refused under it.
  if (!saes.some((one) => one.sae === sae)) fieldOf(row, "sae").append(element("option", { textContent: sae }));
  const target = edit.along ? "along" : edit.direction ? "numbers" : edit.toward ? "between" : "feature";
  const given = { ...edit, site: edit.site ?? saes[0].site, sae, index, target, at };
  given.change = `${edit.action ?? "add"} ${edit.unit ?? "raw"}`;
  given.positions = at === "tokens" ? edit.at.join(", ") : "";
  given.direction = (edit.direction ?? []).join(", ");
  given.range = given.value = edit.value ?? 3;
  for (const field of row.querySelectorAll("[name]")) if (given[field.name] !== undefined) field.value = given[field.name];
  fieldOf(row, "specials").checked = edit.specials === true;
}

export function editOf(row) {
  const target = valueOf(row, "target");
  const [action, unit] = valueOf(row, "change").split(" ");
  const at = valueOf(row, "at");
  const edit = { action };
  const shown = [...row.querySelectorAll("[data-for]:not([hidden]) [name]")].filter((field) => PLAIN.includes(field.name) && field.value !== "");
  for (const field of shown) edit[field.name] = field.type === "number" ? Number(field.value) : field.value;
  if (target === "along") {
    Object.assign(edit, { along: `${edit.sae}:${edit.index}` });
    delete edit.sae;
    delete edit.index;
  }
  if (target === "numbers") edit.direction = numbersOf(row, "direction");
  if (unit === "max") edit.unit = unit;
  if (at !== "all") edit.at = at === "tokens" ? numbersOf(row, "positions") : at;
  if (fieldOf(row, "specials").checked) edit.specials = true;
  return edit;
}

const numbersOf = (row, name) => valueOf(row, name).split(",").filter((part) => part.trim()).map(Number);

function update(row, field) {
  if (field.name === "range") fieldOf(row, "value").value = field.value;
  if (field.name === "value") fieldOf(row, "range").value = field.value;
  settle(field);
  show(row);
  if (["target", "sae", "index"].includes(field.name)) tell(row);
  else say(row);
}

// Show the fields that the row's three choices need; multiples of a maximum are for features.
function show(row) {
  const target = valueOf(row, "target");
  const change = fieldOf(row, "change");
  for (const option of change.options) option.hidden = option.disabled = target !== "feature" && option.value.endsWith("max");
  if (change.selectedOptions[0].disabled) change.value = change.value.replace("max", "raw");
  const words = [target, actionOf(row), valueOf(row, "at")];
  for (const part of row.querySelectorAll("[data-for]")) part.hidden = !part.dataset.for.split(" ").some((word) => words.includes(word));
  fieldOf(row, "range").hidden = !/max|scale/.test(change.value);
  fieldOf(row, "low").setCustomValidity(boundsProblem(valueOf(row, "low"), valueOf(row, "high")));
  if (valueOf(row, "at") === "tokens") offerTokens(row);
}

function boundsProblem(low, high) {
  if (!low && !high) return "Give a lower bound, an upper one, or both.";
  return low && high && Number(low) > Number(high) ? "The lower bound is above the upper one." : "";
}

// Find out what a feature is, and say what the edit would add.
async function tell(row) {
  row.about = row.label = null;
  fieldOf(row, "sae").setCustomValidity("");
  if (!["feature", "along"].includes(valueOf(row, "target"))) return say(row);
  const [sae, index] = [valueOf(row, "sae"), fieldOf(row, "index")];
  const width = saes.find((one) => one.sae === sae)?.width;
  if (width) Object.assign(index, { max: width - 1 });
  index.dataset.problem = width ? `Give a feature’s number, from 0 to ${width - 1}.` : "Give a feature’s number.";
  if (problemOf(index)) {
    refuse(index, problemOf(index));
    return say(row);
  }
  settle(index);
  try {
    const about = await ask(`/api/sae/${sae}/feature/${index.value}`, null, row);
    const labels = await ask(`/api/sae/${sae}/feature/${index.value}/labels`, null, row);
    row.label = labels.find((label) => label.method === "human") ?? labels[0];
    row.about = about;
    say(row);
  } catch (error) {
    if (error.name !== "AbortError") refuseFeature(row, width ? "index" : "sae", sentence(error));
  }
  return null;
}

// A Sae that is not there stays refused until another is chosen; a server may answer again.
function refuseFeature(row, name, sentence) {
  if (name === "sae") fieldOf(row, name).setCustomValidity(sentence);
  refuse(fieldOf(row, name), sentence);
}

function say(row) {
  const about = row.querySelector(".about");
  const isFeature = valueOf(row, "target") === "feature";
  const length = isFeature ? "" : " A direction has length 1, and strength is in the model’s own units.";
  if (!row.about) return about.replaceChildren(length.trim());
  const { sae, feature, pieces } = row.about;
  const link = element("a", { href: address(`/sae/${sae.sae}/${feature.index}`), textContent: `Feature ${feature.index}` });
  const label = row.label ? `, “${row.label.text}”,` : "";
  const top = feature.top_tokens.slice(0, 4).map((id) => `“${visible(pieces[id])}”`).join(" ");
  const dead = `${label} is dead: it never fired, so it has no maximum.`;
  return about.replaceChildren(link, feature.count ? `${label} promotes ${top}; its maximum is ${number(feature.max)}${strength(row, feature.max)}.` : dead, length);
}

// A strength in the other of its two units.
function strength(row, max) {
  const value = valueOf(row, "value");
  const change = valueOf(row, "change");
  if (!/^(add|set)/.test(change) || value === "") return "";
  if (change.endsWith("max")) return `, and ${value} times that is ${number(value * max)}`;
  return `, and ${value} is ${number(value / max)} times that`;
}

// The prompt's tokens, to choose from; shaded by the feature that the row names.
async function offerTokens(row) {
  const host = row.querySelector(".tokens");
  const text = prompt.value;
  const key = `${text} ${valueOf(row, "sae")} ${valueOf(row, "index")}`;
  if (host.dataset.key === key) return pressTokens(row);
  host.dataset.key = key;
  if (!text.trim()) return host.replaceChildren(element("span", { className: "note", textContent: "Write a prompt to choose among its tokens." }));
  try {
    const { tokens, ids, values } = await ask("/api/test", { sae: valueOf(row, "sae"), index: Number(valueOf(row, "index")), text }, host);
    const isNamed = ["feature", "along"].includes(valueOf(row, "target"));
    const strip = wholeStrip(tokens.map((piece, n) => ({ piece, id: ids[n], value: isNamed ? values[n] : 0, position: n + 1 })), Math.max(...values));
    strip.setAttribute("aria-label", "Tokens of the prompt, to choose; arrow keys move");
    strip.onclick = (event) => choose(row, event.target.closest(".t"));
    host.replaceChildren(strip);
    pressTokens(row);
  } catch (error) {
    if (error.name !== "AbortError") host.replaceChildren(element("span", { className: "problem", textContent: sentence(error) }));
  }
}

function choose(row, token) {
  if (!token) return;
  const place = Number(token.dataset.position);
  const chosen = new Set(numbersOf(row, "positions"));
  if (!chosen.delete(place)) chosen.add(place);
  const field = fieldOf(row, "positions");
  field.value = [...chosen].sort((a, b) => a - b).join(", ");
  settle(field);
  pressTokens(row);
  changed();
}

function pressTokens(row) {
  const all = [...row.querySelectorAll(".tokens .t")];
  const chosen = numbersOf(row, "positions").map((place) => (place < 0 ? all.length + 1 + place : place));
  for (const token of all) token.setAttribute("aria-pressed", String(chosen.includes(Number(token.dataset.position))));
}

// How much a row's edit weighs: the length of what it adds, over that of the value it is added to.
export function weigh(row, share) {
  const place = row.querySelector(".weighs");
  place.hidden = share === null;
  if (share === null) return;
  place.firstElementChild.style.setProperty("--w", Math.min(1, share));
  place.lastElementChild.textContent = `adds up to ${percent(share)} of the value’s length`;
}

// Say a refusal of the server beside the field, or in the row, that it is about.
export function refuseEdit(where, sentence) {
  const [, what, name] = /^(edit|site) (.*)/.exec(where) ?? [];
  const isMeant = (row) => name === (what === "site" ? valueOf(row, "site") : nameOf(editOf(row)));
  const row = (what === "edit" && rows()[name]) || rows().find(isMeant);
  if (!row) return false;
  const words = what === "site" ? ["site"] : sentence.match(/\w+/g);
  const fields = words.map((word) => FIELD_OF[word] && fieldOf(row, FIELD_OF[word]));
  refuse(fields.find((field) => field?.checkVisibility()) ?? fieldOf(row, "change"), sentence);
  return true;
}

const nameOf = (edit) => (edit.sae ? `${edit.action} ${edit.sae}/${edit.index}` : `${edit.action} ${edit.site}`);

prompt.addEventListener("change", () => rows().forEach(show));

// Contrasts begun from the page, by those who may write: two sets of prompts, and how far it is.
import { address } from "./address.js";
import { ask } from "./ask.js";
import { element, sentence } from "./page.js";
import { stageElement } from "./stage.js";
import { mayWrite } from "./writing.js";

const EVERY = 1000; // ms between looks at what is at work
const form = document.getElementById("begin");
const fields = form.elements;
const panel = document.getElementById("work");
const said = document.getElementById("said");
const stop = document.getElementById("cancel");
let begun = false; // from this page: when it is done it opens

const isList = (set) => fields[set].value.trim().startsWith("[");

// A prompt a line, or a JSON list, whose prompts may hold line breaks.
function prompts(set) {
  const typed = fields[set].value.trim();
  return isList(set) ? listed(typed, set) : typed.split("\n").filter((line) => line.trim());
}

function listed(typed, set) {
  let list;
  try {
    list = JSON.parse(typed);
  } catch (error) {
    throw new Error(`Set ${set} begins like a JSON list and is none`, { cause: error });
  }
  if (!list.every((prompt) => typeof prompt === "string")) throw new Error(`Set ${set} is a list of other things than texts`);
  return list;
}

function enough(set) {
  const found = prompts(set);
  if (found.length < form.dataset.fewest) throw new Error(`Set ${set} has ${found.length} prompts; give ${form.dataset.fewest} or more`);
  return found;
}

function showCount(set) {
  const place = form.querySelector(`[data-count="${set}"]`);
  const kind = fields[`${set}_kind`].value;
  fields[set].disabled = Boolean(kind);
  const n = isList(set) ? null : prompts(set).length;
  place.classList.toggle("enough", n >= Number(form.dataset.fewest));
  place.textContent = kind ? `passages of ${kind}` : n === null ? "a JSON list" : `${n} ${n === 1 ? "prompt" : "prompts"}`;
}

function request() {
  const sets = Object.fromEntries(["a", "b"].flatMap((set) => (fields[`${set}_kind`].value ? [[`${set}_kind`, fields[`${set}_kind`].value]] : [[set, enough(set)]])));
  const answers = [fields.answer_1.value, fields.answer_2.value].filter(Boolean);
  return { name: fields.name.value, pool: fields.pool.value, answers, ...sets };
}

async function begin(event) {
  event.preventDefault();
  try {
    said.textContent = "";
    await ask("/api/contrasts", request());
    begun = true;
    look();
  } catch (error) {
    if (error.name !== "AbortError") said.textContent = sentence(error);
  }
}

const TITLES = { running: "is at work", done: "is done", cancelled: "was cancelled", failed: "failed" };

function show({ work, stage }) {
  panel.hidden = false;
  document.getElementById("work-title").textContent = `Contrast ${work.name} ${TITLES[work.state]}`;
  document.getElementById("stage").replaceChildren(...(stage && work.state === "running" ? [stageElement(stage)] : []));
  const place = document.getElementById("work-said");
  if (work.state === "done") place.replaceChildren(element("a", { href: address(`/contrast/${work.name}`), textContent: "Open it" }));
  else if (work.state === "running") place.textContent = stage ? "" : "Loading the model …";
  else place.textContent = work.problem === "cancelled" ? "Nothing of it is kept." : `${work.problem}.`;
  stop.hidden = form.hidden || work.state !== "running";
}

// Look at what is at work as long as something is; what this page began is opened when it is done.
async function look() {
  try {
    const now = await ask("/api/contrasts/work");
    if (!now.work) return;
    show(now);
    if (now.work.state === "running") setTimeout(look, EVERY);
    else if (begun && now.work.state === "done") location.assign(address(`/contrast/${now.work.name}`));
  } catch (error) {
    if (error.name !== "AbortError") said.textContent = sentence(error);
  }
}

async function cancel() {
  begun = false;
  try {
    await ask("/api/contrasts/cancel", {});
    look();
  } catch (error) {
    said.textContent = sentence(error);
  }
}

async function fill(input) {
  const [file] = input.files;
  if (!file) return;
  const set = input.dataset.into;
  fields[set].value = await file.text();
  fields[`${set}_kind`].value = "";
  if (!fields.name.value) fields.name.value = file.name.replace(/\.\w+$/, "").toLowerCase().replace(/[^a-z0-9_-]+/g, "-").replace(/^-+/, "");
  showCount(set);
}

async function offerForm() {
  const accepted = await mayWrite();
  form.hidden = !accepted;
  document.getElementById("how").hidden = accepted;
}

form.addEventListener("submit", begin);
form.addEventListener("input", () => ["a", "b"].forEach(showCount));
for (const input of form.querySelectorAll("[data-into]")) input.onchange = () => fill(input);
stop.onclick = cancel;
["a", "b"].forEach(showCount);
offerForm();
look();

// Steering: a prompt, edits, and both texts as they are written.
//
// The address holds all that is asked: `edits` as JSON, as POST /api/steer takes them. A link from
// elsewhere may name features as on the command line (feature=sae:index*4), one as sae and index, or
// edits that were saved (saved=name). Events come from POST /api/steer, one for each token.
import { address } from "./address.js";
import { ask, sayFailure } from "./ask.js";
import { addRow, editOf, parsed, refuseEdit, replaceRows, rows, weigh } from "./edits.js";
import { element, remember, sentence } from "./page.js";
import { isUsable, refuse, settle } from "./refuse.js";
import { add, begin, hasBegun, shareOf } from "./texts.js";
import { authorisation } from "./token.js";

const form = document.getElementById("ask");
const fields = form.elements;
const status = document.getElementById("status");
const texts = document.getElementById("texts");
const stop = document.getElementById("stop");
const saved = document.getElementById("saved");
const name = document.getElementById("name");
const share = document.getElementById("share");
const USUAL = { tokens: "48", temperature: "0.7", seed: "0" };
// Which field a refusal is about, by the place that it names.
const ABOUT = { generate: "prompt", text: "prompt", "body.prompt": "prompt", "body.tokens": "tokens", "body.temperature": "temperature", "body.seed": "seed" };
let running = null; // the request whose text is being written

function keep() {
  const state = { prompt: fields.prompt.value, edits: JSON.stringify(rows().map(editOf)) };
  for (const old of ["sae", "index", "feature", "at", "saved"]) state[old] = null;
  for (const [key, usual] of Object.entries(USUAL)) state[key] = fields[key].value === usual ? null : fields[key].value;
  remember(state);
}

async function readAddress() {
  const query = new URLSearchParams(location.search);
  fields.prompt.value = query.get("prompt") ?? "";
  for (const [key, usual] of Object.entries(USUAL)) fields[key].value = query.get(key) ?? usual;
  const single = query.has("sae") ? [`${query.get("sae")}:${query.get("index") ?? 0}`] : [];
  const typed = [...single, ...query.getAll("feature").flatMap((some) => some.split(" "))];
  const edits = typed.flatMap((text) => parsed(text, query.get("at") ?? "all"));
  try {
    if (query.has("edits")) edits.push(...JSON.parse(query.get("edits")));
    edits.forEach((edit) => addRow(edit));
  } catch {
    replaceRows([]);
    tell("The address holds edits that cannot be read; they were left out.");
  }
  if (query.has("saved")) await openSaved(query.get("saved"));
  if (!rows().length) addRow();
}

function tell(sentence) {
  status.hidden = false;
  status.textContent = sentence;
}

async function write(event) {
  event?.preventDefault();
  keep();
  if (!isUsable(form)) return;
  running?.abort();
  const control = (running = new AbortController());
  begin(fields.prompt.value);
  rows().forEach((row) => weigh(row, null));
  texts.hidden = stop.hidden = false;
  document.getElementById("start").hidden = true;
  tell("Running the model; the first time it is loaded, which takes some seconds.");
  try {
    for await (const [kind, about] of events(control)) take(kind, about);
  } catch (error) {
    if (running === control) sayRefusal(error);
  }
  if (running === control) ended();
}

function ended() {
  running = null;
  stop.hidden = true;
}

// Say a refusal beside the field that it is about, or where the texts would be.
function sayRefusal(error) {
  if (error.name === "AbortError") return;
  texts.hidden = !hasBegun();
  const [, where, message] = /^(.*?): (.*)$/s.exec(error.message) ?? [];
  const field = fields[ABOUT[where]];
  if (field) refuse(field, sentence({ message }));
  if (field || refuseEdit(where ?? "", sentence({ message: message ?? "" }))) status.hidden = true;
  else sayFailure(status, error, write);
}

// The events of one request; a refusal is thrown as its sentence.
async function* events(control) {
  const body = { prompt: fields.prompt.value, edits: rows().map(editOf) };
  for (const key of Object.keys(USUAL)) body[key] = Number(fields[key].value);
  const headers = { "content-type": "application/json", ...authorisation() };
  const answer = await fetch(address("/api/steer"), { method: "POST", body: JSON.stringify(body), headers, signal: control.signal });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  let text = "";
  for await (const piece of chunks(answer.body.pipeThrough(new TextDecoderStream()))) {
    const blocks = (text + piece).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const [kind, ...lines] = block.split("\n");
      yield [kind.replace("event: ", ""), JSON.parse(lines.join("\n").replace("data: ", ""))];
    }
  }
}

async function* chunks(stream) {
  const reader = stream.getReader();
  for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
}

function take(kind, about) {
  if (kind === "error") throw new Error(about.message);
  status.hidden = kind === "token" || about.reason === "written";
  if (kind === "end") status.textContent = `The texts were ${about.reason}.`;
  else {
    add(about);
    rows().forEach((row, edit) => weigh(row, shareOf(edit)));
  }
}

async function listSaved() {
  const { edits } = await ask("/api/notes");
  saved.disabled = edits.length === 0;
  saved.replaceChildren(element("option", { value: "", textContent: "saved edits" }), ...edits.map((one) => element("option", { textContent: one.name })));
}

async function openSaved(wanted) {
  try {
    const { edits } = await ask(`/api/edits/${encodeURIComponent(wanted)}`);
    replaceRows(edits);
    name.value = wanted;
  } catch (error) {
    sayFailure(status, error, () => openSaved(wanted));
  }
}

async function save() {
  if (!name.value.trim()) return refuse(name, "Give them a name.");
  if (!isUsable(form)) return null;
  try {
    await ask("/api/edits", { name: name.value, edits: rows().map(editOf) });
    await listSaved();
    return tell(`Saved as “${name.value.trim()}”.`);
  } catch (error) {
    return sayRefusal(error);
  }
}

async function offerWriting() {
  const { writable, accepted } = await ask("/api/writing");
  document.getElementById("save").hidden = !accepted;
  if (accepted) return;
  tell(writable ? "Steering needs the token of this server: open the address that panscope serve printed." : "This server only reads. Start it with panscope serve --writable to steer.");
  document.getElementById("write").hidden = true;
}

async function copyLink() {
  keep();
  // Browsers offer the clipboard only over https and to this machine itself.
  if (!navigator.clipboard) return window.prompt("Link to this view", location.href);
  await navigator.clipboard.writeText(location.href);
  share.textContent = "Copied";
  return setTimeout(() => (share.textContent = "Copy link"), 1500);
}

form.addEventListener("submit", write);
form.addEventListener("input", ({ target }) => settle(target), true); // before a row refuses the same field
form.addEventListener("change", keep);
document.getElementById("add").onclick = () => (addRow().querySelector("[name=index]").focus(), keep());
document.querySelector("#save button").onclick = save;
name.onkeydown = (event) => event.key === "Enter" && (event.preventDefault(), save());
share.onclick = copyLink;
saved.onchange = () => saved.value && openSaved(saved.value);
stop.onclick = () => (running?.abort(), ended(), (status.hidden = true));
fields.prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey) return;
  event.preventDefault();
  if (!document.getElementById("write").hidden) form.requestSubmit();
});
readAddress();
listSaved();
offerWriting();

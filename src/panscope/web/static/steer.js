// Steering: a prompt, features to change, and both texts as they are written.
//
// A feature is written in the address as on the command line: sae:index*4 adds four times its
// maximum, sae:index+2 adds, sae:index=0 sets; without a strength it is three times the maximum. A
// single one may also come as sae and index. Events come from POST /api/steer, one for each token.
import { address } from "./address.js";
import { ask, sayFailure } from "./ask.js";
import { number, percent } from "./numbers.js";
import { data, element, remember } from "./page.js";
import { tokenElement, visible, wholeStrip } from "./strip.js";
import { authorisation } from "./token.js";

const { saes } = data();
const form = document.getElementById("ask");
const fields = form.elements;
const rows = document.getElementById("edits");
const status = document.getElementById("status");
const texts = document.getElementById("texts");
const bars = document.getElementById("kl");
const told = document.getElementById("told");
const stop = document.getElementById("stop");
const PARSED = /^(.*)[:/](\d+)(?:([*+=])(-?[\d.]+(?:e-?\d+)?))?$/;
const DEFAULTS = { at: "all", tokens: "48", temperature: "0.7", seed: "0" };
let running = null; // the request whose text is being written
let seen = []; // its tokens so far

const fieldOf = (row, name) => row.querySelector(`[name="${name}"]`);

function addRow(sae = saes[0].sae, index = 0, sign = "*", value = 3) {
  const row = document.getElementById("row").content.firstElementChild.cloneNode(true);
  rows.append(row);
  const given = { sae, index, sign, value, range: value };
  for (const [name, one] of Object.entries(given)) fieldOf(row, name).value = one;
  row.querySelector(".remove").onclick = () => (row.remove(), keep());
  row.querySelector(".ablate").onclick = () => {
    Object.assign(fieldOf(row, "sign"), { value: "=" });
    Object.assign(fieldOf(row, "value"), { value: 0 });
    changed(row);
  };
  row.addEventListener("input", (event) => {
    if (event.target.name === "range") fieldOf(row, "value").value = event.target.value;
    if (event.target.name === "value") fieldOf(row, "range").value = event.target.value;
    changed(row, event.target.name);
  });
  tell(row);
  return row;
}

function changed(row, name) {
  keep();
  if (name === "sae" || name === "index") tell(row);
  else say(row);
}

// Find out what a feature is, and say what the edit would add.
async function tell(row) {
  const sae = fieldOf(row, "sae").value;
  fieldOf(row, "index").max = saes.find((one) => one.sae === sae).width - 1;
  try {
    row.about = await ask(`/api/sae/${sae}/feature/${fieldOf(row, "index").value || 0}`, null, row);
    say(row);
  } catch (error) {
    if (error.name !== "AbortError") row.querySelector(".about").textContent = `${error.message}.`;
  }
}

function say(row) {
  fieldOf(row, "range").hidden = fieldOf(row, "sign").value !== "*";
  if (!row.about) return;
  const { sae, feature, pieces } = row.about;
  const value = Number(fieldOf(row, "value").value);
  const added = fieldOf(row, "sign").value === "*" ? `; ${number(value)} times that is ${number(value * feature.max)}` : "";
  const link = element("a", { href: address(`/sae/${sae.sae}/${feature.index}`), textContent: `Feature ${feature.index}` });
  const top = feature.top_tokens.slice(0, 4).map((id) => `“${visible(pieces[id])}”`).join(" ");
  row.querySelector(".about").replaceChildren(link, feature.count ? ` promotes ${top}; its maximum is ${number(feature.max)}${added}.` : " is dead: it never fired, so it has no maximum.");
}

const typed = (row) => `${fieldOf(row, "sae").value}:${fieldOf(row, "index").value}${fieldOf(row, "sign").value}${fieldOf(row, "value").value}`;

function editOf(row) {
  const sign = fieldOf(row, "sign").value;
  return {
    action: sign === "=" ? "set" : "add",
    unit: sign === "*" ? "max" : "raw",
    sae: fieldOf(row, "sae").value,
    index: Number(fieldOf(row, "index").value),
    value: Number(fieldOf(row, "value").value),
    at: fields.at.value,
  };
}

function keep() {
  const state = { sae: null, index: null, prompt: fields.prompt.value, feature: [...rows.children].map(typed).join(" ") };
  for (const [key, usual] of Object.entries(DEFAULTS)) state[key] = fields[key].value === usual ? null : fields[key].value;
  remember(state);
}

function readAddress() {
  const query = new URLSearchParams(location.search);
  fields.prompt.value = query.get("prompt") ?? "";
  for (const [key, usual] of Object.entries(DEFAULTS)) fields[key].value = query.get(key) ?? usual;
  const single = query.has("sae") ? [`${query.get("sae")}:${query.get("index") ?? 0}`] : [];
  for (const text of [...single, ...query.getAll("feature").flatMap((some) => some.split(" "))]) {
    const [, sae, index, sign, value] = PARSED.exec(text) ?? [];
    if (saes.some((one) => one.sae === sae)) addRow(sae, index, sign, value);
  }
  if (!rows.children.length) addRow();
}

async function write(event) {
  event?.preventDefault();
  keep();
  running?.abort();
  const control = (running = new AbortController());
  begin();
  try {
    for await (const [kind, about] of events(control)) take(kind, about);
  } catch (error) {
    if (running === control) sayFailure(status, error, write);
  }
  if (running !== control) return;
  stop.hidden = true;
  running = null;
}

function begin() {
  seen = [];
  for (const part of ["normal", "steered"]) {
    const strip = wholeStrip([], 0);
    strip.setAttribute("aria-label", `${part} text; arrow keys move`);
    strip.append(element("span", { className: "mono prompt", textContent: fields.prompt.value }));
    document.getElementById(part).replaceChildren(strip);
  }
  bars.replaceChildren();
  told.textContent = "";
  texts.hidden = stop.hidden = status.hidden = false;
  document.getElementById("start").hidden = true;
  status.textContent = "Running the model; the first time it is loaded, which takes some seconds.";
}

// The events of one request; a refusal is thrown as its sentence.
async function* events(control) {
  const body = { prompt: fields.prompt.value, edits: [...rows.children].map(editOf), tokens: Number(fields.tokens.value), temperature: Number(fields.temperature.value), seed: Number(fields.seed.value) };
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
    seen.push(about);
    for (const part of ["normal", "steered"]) if (about[part]) append(part, about);
    if (about.kl_nats !== null) drawBars();
    sum();
  }
}

function append(part, about) {
  const { id, piece, probability, likeliest } = about[part];
  const strip = document.getElementById(part).firstElementChild;
  const made = tokenElement({ piece, id, position: seen.length, value: 0 }, 0);
  const others = likeliest.map(([other, chance]) => `${percent(chance)} ${visible(other)}`).join("\n");
  const moved = part === "steered" && about.kl_nats !== null ? `\nKL ${number(about.kl_nats)} nats` : "";
  made.dataset.tip = `${visible(piece)} ${percent(probability)}${moved}\nlikeliest:\n${others}`;
  made.setAttribute("aria-label", `${visible(piece)} ${percent(probability)}${moved}`);
  made.tabIndex = strip.querySelector(".t") ? -1 : 0;
  strip.append(made);
  if (piece.includes("\n")) strip.append(element("br"));
}

function drawBars() {
  const moved = seen.filter((one) => one.kl_nats !== null);
  const top = Math.max(...moved.map((one) => one.kl_nats), 1e-9);
  bars.replaceChildren(
    ...moved.map((one, place) => {
      const bar = element("span", { tabIndex: place ? -1 : 0 });
      bar.style.setProperty("--h", Math.max(0, one.kl_nats) / top);
      bar.dataset.tip = `token ${place + 1} ${visible(one.steered.piece)}\nKL ${number(one.kl_nats)} nats`;
      bar.setAttribute("role", "img");
      bar.setAttribute("aria-label", bar.dataset.tip.replace("\n", ", "));
      return bar;
    }),
  );
  const mean = moved.reduce((sum, one) => sum + Math.max(0, one.kl_nats), 0) / moved.length;
  document.getElementById("kl-title").textContent = `How far each prediction moved: ${number(mean)} nats a token on average, ${number(top)} at most`;
}

// What each edit weighs: the length of what it adds, over that of the value it is added to.
function sum() {
  const lines = [...rows.children].map((row, edit) => {
    const shares = seen.filter((one) => one.shares.length).map((one) => one.shares[edit] ?? 0);
    return `${typed(row)} adds up to ${percent(Math.max(0, ...shares))} of the length of the value at its site.`;
  });
  told.textContent = lines.join("\n");
}

async function refuseWithoutToken() {
  const { writable, accepted } = await ask("/api/writing");
  if (accepted) return;
  status.hidden = false;
  status.textContent = writable ? "Steering needs the token of this server: open the address that panscope serve printed." : "This server only reads. Start it with panscope serve --writable to steer.";
  document.getElementById("write").hidden = true;
}

bars.addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const to = by && [...bars.children][[...bars.children].indexOf(event.target) + by];
  if (!to) return;
  event.target.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
});
form.addEventListener("submit", write);
form.addEventListener("change", keep);
document.getElementById("add").onclick = () => (fieldOf(addRow(), "index").focus(), keep());
stop.onclick = () => (running?.abort(), (running = null), (stop.hidden = true), (status.hidden = true));
fields.prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey) return;
  event.preventDefault();
  if (!document.getElementById("write").hidden) form.requestSubmit();
});
readAddress();
refuseWithoutToken();

// A label by hand, or found and scored by the server: for those who may write here.
import { ask } from "./ask.js";
import { data, sentence } from "./page.js";
import { authorisation } from "./token.js";

const form = document.getElementById("label");
const said = document.getElementById("label-said");
const KEY = "panscope-author";

// Post to one of the feature's routes, then show what the notes hold now.
async function post(route, body) {
  const { sae, feature } = data().view;
  try {
    await ask(`/api/sae/${sae.sae}/feature/${feature.index}/${route}`, body);
    location.reload();
  } catch (error) {
    if (error.name !== "AbortError") said.textContent = sentence(error);
  }
}

function keepLabel(event) {
  event.preventDefault();
  const { text, author } = form.elements;
  localStorage.setItem(KEY, author.value);
  post("labels", { text: text.value, author: author.value });
}

async function explain(route, button) {
  button.disabled = true;
  said.textContent = route === "explain" ? "Looking for what its examples have in common …" : "Scoring the label …";
  await post(route, {});
  button.disabled = false;
}

async function offerForm() {
  form.elements.author.value = localStorage.getItem(KEY) ?? "";
  form.addEventListener("submit", keepLabel);
  for (const route of ["explain", "rescore"]) {
    const button = document.getElementById(route);
    if (button) button.onclick = () => explain(route, button);
  }
  const { accepted } = await ask("/api/writing");
  form.hidden = !accepted;
}

if (form && authorisation().authorization) offerForm();

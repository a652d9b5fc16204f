// A label by hand: the form is there for those who may write here.
import { ask } from "./ask.js";
import { data } from "./page.js";
import { authorisation } from "./token.js";

const form = document.getElementById("label");
const said = document.getElementById("label-said");
const KEY = "panscope-author";

async function keepLabel(event) {
  event.preventDefault();
  const { sae, feature } = data().view;
  const { text, author } = form.elements;
  localStorage.setItem(KEY, author.value);
  try {
    await ask(`/api/sae/${sae.sae}/feature/${feature.index}/labels`, { text: text.value, author: author.value });
    location.reload();
  } catch (error) {
    if (error.name !== "AbortError") said.textContent = `${error.message}.`;
  }
}

async function offerForm() {
  form.elements.author.value = localStorage.getItem(KEY) ?? "";
  form.addEventListener("submit", keepLabel);
  const { accepted } = await ask("/api/writing");
  form.hidden = !accepted;
}

if (form && authorisation().authorization) offerForm();

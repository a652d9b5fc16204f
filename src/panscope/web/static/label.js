// A label by hand, for those who may write here; and the label that an address names, in its history.
import { offerExplaining, post } from "./explaining.js";
import { keep, kept } from "./habits.js";
import { mayWrite } from "./writing.js";

const form = document.getElementById("label");

function keepLabel(event) {
  event.preventDefault();
  const { text, author } = form.elements;
  keep("author", author.value);
  post("labels", { text: text.value, author: author.value });
}

async function offerForm() {
  form.elements.author.value = kept("author") ?? "";
  form.addEventListener("submit", keepLabel);
  if (!(await mayWrite())) return;
  form.hidden = false;
  offerExplaining();
}

function showNamed() {
  const place = /^#label-\d+$/.test(location.hash) ? document.getElementById(location.hash.slice(1)) : null;
  const history = place?.closest("details");
  if (!history) return;
  history.open = true;
  place.scrollIntoView({ block: "nearest" });
}

showNamed();
if (form) offerForm();

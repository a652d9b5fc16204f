// The lists of a feature: for those who may write here, a form to put it in one, buttons to take it out.
import { ask } from "./ask.js";
import { element, ofFeature, sentence } from "./page.js";
import { mayWrite } from "./writing.js";

const place = document.getElementById("lists"); // absent where a page embeds this one

async function change(verb, query, body) {
  try {
    await ask(ofFeature(`lists${query}`), body, "lists", verb);
    location.reload();
  } catch (error) {
    if (error.name !== "AbortError") place.querySelector("[role=status]").textContent = sentence(error);
  }
}

function putIn(event) {
  event.preventDefault();
  const { list, remark } = event.target.elements;
  change("PUT", "", { list: list.value, remark: remark.value });
}

// Names of lists are asked for once someone is about to give one; it can be done without them.
async function nameLists() {
  const known = await ask("/api/lists?limit=500").catch(() => []);
  document.getElementById("known-lists").replaceChildren(...known.map((one) => element("option", { value: one.name })));
}

async function offerLists() {
  if (!(await mayWrite())) return;
  const form = place.querySelector("form");
  form.addEventListener("submit", putIn);
  form.elements.list.addEventListener("focus", nameLists, { once: true });
  for (const button of place.querySelectorAll("[data-take]")) {
    button.hidden = false;
    button.onclick = () => change("DELETE", `?name=${encodeURIComponent(button.dataset.take)}`, null);
  }
  form.hidden = place.hidden = false;
}

if (place) offerLists();

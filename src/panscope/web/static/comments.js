// Comments on a feature: a form and buttons to remove for those who may write here.
import { ask } from "./ask.js";
import { keep, kept } from "./habits.js";
import { ofFeature, sentence } from "./page.js";
import { mayWrite } from "./writing.js";

const place = document.getElementById("comments"); // absent where a page embeds this one

async function done(request, button) {
  button.disabled = true; // or a second click writes it twice
  try {
    await request;
    location.reload();
  } catch (error) {
    button.disabled = false;
    if (error.name !== "AbortError") place.querySelector("[role=status]").textContent = sentence(error);
  }
}

function comment(event) {
  event.preventDefault();
  const { text, author } = event.target.elements;
  const said = { text: text.value, author: author.value };
  keep("author", author.value); // as labels are signed
  done(ask(ofFeature("comments"), said), event.submitter);
}

function remove(button) {
  const { author, remove: number } = button.dataset;
  if (confirm(`Remove this comment by ${author}?`)) done(ask(`/api/comments/${number}`, null, "comment", "DELETE"), button);
}

async function offerComments() {
  if (!(await mayWrite())) return;
  const form = place.querySelector("form");
  form.elements.author.value = kept("author") ?? "";
  form.addEventListener("submit", comment);
  for (const button of place.querySelectorAll("[data-remove]")) {
    button.hidden = false;
    button.onclick = () => remove(button);
  }
  form.hidden = place.hidden = false;
}

if (place) offerComments();

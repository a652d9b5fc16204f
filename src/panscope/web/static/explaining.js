// A label found or scored by the server: by whom and by which scorers is chosen here, of what it offers.
import { ask } from "./ask.js";
import { keep, kept } from "./habits.js";
import { element, ofFeature, sentence } from "./page.js";

const said = document.getElementById("label-said");
const who = document.getElementById("who");
const choices = document.getElementById("who-choices");
const RULES = "rules";
let offer = null;
let chosen = {}; // as the API takes it; empty for what the run's recipe says

// Post to one of the feature's routes, then show what the notes hold.
export async function post(route, body) {
  try {
    const label = await ask(ofFeature(route), body);
    history.replaceState(null, "", location.pathname + location.search + (willBeTitle(label) ? "" : `#label-${label.id}`));
    location.reload();
  } catch (error) {
    if (error.name === "AbortError") return;
    said.textContent = sentence(error);
    said.scrollIntoView({ block: "nearest" });
  }
}

// A person's newest label is the title, or else the newest; others are looked for in the history.
function willBeTitle({ id, method }) {
  const isPersons = document.getElementById("rescore") !== null;
  const isNewest = [...document.querySelectorAll("[data-score]")].every((button) => Number(button.dataset.score) <= id);
  return isNewest && (method === "human" || !isPersons);
}

const buttons = () => document.querySelectorAll("#explain, #rescore, [data-score]");

// One at a time, as on the server.
async function start(button, route, body) {
  const words = button.textContent;
  for (const one of buttons()) one.disabled = true;
  button.textContent = route === "explain" ? "Explaining …" : "Scoring …";
  said.textContent = progress(route);
  await post(route, body);
  button.textContent = words;
  for (const one of buttons()) one.disabled = false;
}

function progress(route) {
  if (chosen.by === "endpoint") return `Asking ${offer.model}; this may take a minute or more …`;
  return route === "explain" ? "Looking for what its examples have in common …" : "Scoring the label …";
}

function score(button, body) {
  if (chosen.scorers?.length === 0) {
    said.textContent = "No scorer is ticked; tick one of them first.";
    open(true);
    return;
  }
  start(button, "rescore", { ...chosen, ...body });
}

function open(isOpen) {
  choices.hidden = !isOpen;
  who.setAttribute("aria-expanded", String(isOpen));
}

const nameOf = (by) => (by === "endpoint" ? offer.model : by);

function say() {
  const { by, scorers } = chosen;
  const all = scorers.length === offer.scorers.length ? "" : `, ${scorers.join(" and ") || "without a score"}`;
  who.textContent = `by ${nameOf(by)}${all}`;
}

function choose() {
  const ticked = [...choices.querySelectorAll("input:checked")].map((input) => input.value);
  chosen = { by: choices.querySelector("select").value, scorers: ticked };
  keep("explaining", JSON.stringify(chosen));
  say();
}

// What was chosen before, on this or another feature, where it is on offer; or what the recipe says.
function before() {
  let known = null;
  try {
    known = JSON.parse(kept("explaining"));
  } catch {} // it is not of ours
  const { by, scorers } = { ...offer.usual, ...known };
  return { by: offer.by.includes(by) ? by : RULES, scorers: offer.scorers.filter((scorer) => [scorers].flat().includes(scorer)) };
}

function drawChoices() {
  const select = element("select", {}, ...offer.by.map((by) => element("option", { value: by, textContent: nameOf(by), selected: by === chosen.by })));
  const ticks = offer.scorers.map((scorer) => element("label", {}, element("input", { type: "checkbox", value: scorer, checked: chosen.scorers.includes(scorer) }), scorer));
  const scorers = element("fieldset", {}, element("legend", { className: "sr", textContent: "Scorers" }), ...ticks);
  const missing = offer.missing ? [element("p", { className: "note", textContent: sentence({ message: offer.missing }) })] : [];
  choices.replaceChildren(element("label", {}, "Explains and scores ", select), scorers, ...missing);
  choices.onchange = choose;
}

// By the rules alone there is nothing to choose: they take a fifth of a second for all.
async function offerChoices() {
  offer = await ask("/api/explainers");
  if (offer.by.length === 1 && offer.by.includes(offer.usual.by)) return;
  chosen = before();
  drawChoices();
  say();
  who.hidden = false;
  who.onclick = () => open(choices.hidden);
}

export function offerExplaining() {
  const explain = document.getElementById("explain");
  explain.onclick = () => start(explain, "explain", chosen);
  const rescore = document.getElementById("rescore");
  if (rescore) rescore.onclick = () => score(rescore, {});
  for (const button of document.querySelectorAll("[data-score]")) {
    button.hidden = false;
    button.onclick = () => score(button, { label: Number(button.dataset.score) });
  }
  offerChoices().catch((error) => (said.textContent = sentence(error)));
}

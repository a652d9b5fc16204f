// What every page has: keys, theme, tooltips, pieces of text with their blanks made visible.
import { address } from "./address.js";
import { keep } from "./habits.js";
import { glyphs } from "./strip.js";
import "./tip.js";
import "./token.js";

const PLACES = { s: "/", m: "/microscope", f: "/search", e: "/steer", c: "/contrast", n: "/notes", t: "/tour", p: "/progress", d: "/docs", h: "/help" };
const THEMES = ["auto", "light", "dark"];
let gone = 0;
let read = null;

export function data() {
  read ??= JSON.parse(document.getElementById("data").textContent);
  return read;
}

// Where the API has what belongs to the feature that the page is about.
export function ofFeature(route) {
  const { sae, feature } = data().view;
  return `/api/sae/${sae.sae}/feature/${feature.index}/${route}`;
}

// Keep the page's state in its address, leaving out what has its usual value.
export function remember(state) {
  const query = new URLSearchParams(location.search);
  for (const [key, value] of Object.entries(state)) {
    if (value === null || value === "" || value === undefined) query.delete(key);
    else query.set(key, value);
  }
  const text = query.toString();
  history.replaceState(null, "", location.pathname + (text ? `?${text}` : "") + location.hash);
}

// What went wrong, as a sentence: messages end with what to do, which may be a question.
export const sentence = ({ message }) => (/[.?!]$/.test(message) ? message : `${message}.`);

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function upward() {
  const links = document.querySelectorAll(".crumbs a");
  if (links.length) location.assign(links[links.length - 1].href);
}

function isTyping(target) {
  return target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]") !== null;
}

function goTo(key) {
  if (key === "u") upward();
  else if (PLACES[key]) location.assign(address(PLACES[key]));
}

// j and k: a page with a list listens for "step"; others follow their next and previous links.
function step(by) {
  const event = new CustomEvent("step", { detail: by, cancelable: true });
  if (!document.dispatchEvent(event)) return;
  document.querySelector(by > 0 ? "a[rel=next]" : "a[rel=prev]")?.click();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (isTyping(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (document.querySelector("dialog[open]")) return;
  if (event.timeStamp - gone < 1200) {
    gone = -Infinity;
    goTo(event.key);
    return;
  }
  if (event.key === "/") {
    event.preventDefault();
    document.querySelector("[data-search]")?.focus();
  } else if (event.key === "?") document.getElementById("keys").showModal();
  else if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
  else if (event.key === "r") document.querySelector("[data-random]")?.click();
  else if (event.key === "g") gone = event.timeStamp;
}

function showTheme(button) {
  const theme = document.documentElement.dataset.theme ?? "auto";
  button.textContent = theme[0].toUpperCase() + theme.slice(1);
  button.setAttribute("aria-label", `Theme: ${theme}`);
}

function nextTheme(button) {
  const now = document.documentElement.dataset.theme ?? "auto";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  keep("theme", next);
  showTheme(button);
}

gone = -Infinity;
document.addEventListener("keydown", onKey);
document.getElementById("keys-button").onclick = () => document.getElementById("keys").showModal();
const themeButton = document.getElementById("theme-button");
themeButton.onclick = () => nextTheme(themeButton);
showTheme(themeButton);
document.querySelector(".pages [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
for (const place of document.querySelectorAll("[data-piece]")) place.append(glyphs(place.dataset.piece));
for (const place of document.querySelectorAll("[data-width]")) {
  place.style.setProperty("--w", Math.min(1, Math.abs(Number(place.dataset.width))));
}

// How much of each passage is shown, and whether its line breaks are: as the address says, or else as
// it was chosen on a page before.
import { keep, kept } from "./habits.js";
import { remember } from "./page.js";

const VALUES = { size: ["line", "snippet", "whole"], breaks: ["shown", "hidden"] };
const query = new URLSearchParams(location.search);
const button = document.getElementById("breaks");

function chosen(name) {
  const known = [query.get(name), kept(name)].find((value) => VALUES[name].includes(value));
  return known ?? VALUES[name][0];
}

function choose(name, value) {
  keep(name, value);
  remember({ [name]: value === VALUES[name][0] ? null : value });
}

// The style sheet hides them, so that no strip is drawn anew.
function showBreaks(value) {
  document.documentElement.dataset.breaks = value;
  if (button) button.textContent = value === "shown" ? "Hide line breaks" : "Show line breaks";
}

function turnBreaks() {
  const value = document.documentElement.dataset.breaks === "shown" ? "hidden" : "shown";
  choose("breaks", value);
  showBreaks(value);
}

// Return the size to begin with; `show` hears of another.
export function offerSizes(show) {
  const select = document.getElementById("size");
  const first = chosen("size");
  if (!select) return first;
  select.value = first;
  select.onchange = () => {
    choose("size", select.value);
    show(select.value);
  };
  return first;
}

showBreaks(chosen("breaks"));
if (button) button.onclick = turnBreaks;

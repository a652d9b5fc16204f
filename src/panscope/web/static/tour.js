// The tour: its steps one at a time (the step is in the address), the first look, and the puzzles.
import { address } from "./address.js";
import { ask, sayFailure } from "./ask.js";
import { number } from "./numbers.js";
import { data, element } from "./page.js";
import { glyphs, wholeStrip } from "./strip.js";

const { sae, puzzles } = data();
const steps = [...document.querySelectorAll(".tour")];
const links = [...document.querySelectorAll(".tour-steps a")];
const back = document.getElementById("back");
const next = document.getElementById("next");
let now = 0;
let asked = [];

function show(step) {
  now = Math.max(0, Math.min(steps.length - 1, step));
  steps.forEach((section, n) => (section.hidden = n !== now));
  links.forEach((link, n) => (n === now ? link.setAttribute("aria-current", "step") : link.removeAttribute("aria-current")));
  back.disabled = now === 0;
  next.disabled = now === steps.length - 1;
  document.getElementById("step-of").textContent = `Step ${now + 1} of ${steps.length}`;
}

function goTo(step) {
  show(step);
  history.replaceState(null, "", `#${steps[now].id}`);
  const title = steps[now].querySelector("h2");
  title.tabIndex = -1;
  title.focus();
}

function fromAddress() {
  show(Math.max(0, steps.findIndex((section) => `#${section.id}` === location.hash)));
}

// The first look: each token shaded by its strongest feature; the chosen one lists its features.
async function look(event) {
  event?.preventDefault();
  const place = document.getElementById("seen");
  place.replaceChildren(element("p", { className: "skeleton", textContent: "Running the model; the first time it is loaded, which takes some seconds." }));
  try {
    const text = document.getElementById("look-form").elements.text.value;
    drawSeen(place, await ask("/api/microscope", { text, k: 5, max_density: 0.05, saes: [sae] }));
  } catch (error) {
    sayFailure(place, error, look);
  }
}

function drawSeen(place, { tokens, ids, saes: [reading] }) {
  const valueAt = (feature, n) => feature.values[feature.positions.indexOf(n)] ?? 0;
  const best = reading.strongest.map((list, n) => (list.length ? valueAt(reading.features[list[0]], n) : 0));
  const strip = wholeStrip(tokens.map((piece, n) => ({ piece, id: ids[n], position: n + 1, value: best[n] })), Math.max(...best));
  const list = element("ol", { className: "tour-features" });
  const chosen = element("p", { className: "note" });
  const choose = (n) => {
    for (const token of strip.querySelectorAll(".t")) token.setAttribute("aria-pressed", String(token.dataset.position === String(n + 1)));
    const rows = reading.strongest[n].map((at) => featureLine(reading.features[at], valueAt(reading.features[at], n)));
    chosen.replaceChildren(rows.length ? "The strongest features on " : "No feature fires on ", element("span", { className: "piece" }, glyphs(tokens[n])), rows.length ? ", with how strongly each fires and what it fires on most in all text:" : ".");
    list.replaceChildren(...rows);
  };
  strip.addEventListener("click", (event) => {
    const token = event.target.closest(".t");
    if (token) choose(Number(token.dataset.position) - 1);
  });
  place.replaceChildren(strip, chosen, list);
  choose(best.indexOf(Math.max(...best)));
}

function featureLine(feature, value) {
  const link = element("a", { href: address(`/sae/${sae}/${feature.index}`), textContent: `Feature ${feature.index}` });
  const fires = element("span", {}, ...feature.label.flatMap((piece) => [element("span", { className: "piece" }, glyphs(piece)), " "]));
  return element("li", {}, link, element("span", { className: "n", textContent: number(value) }), fires);
}

function passage(puzzle, { pieces, values, peak }, isShaded) {
  const tokens = pieces.map((piece, n) => ({ piece, id: "", position: n, value: isShaded ? values[n] : 0 }));
  const strip = wholeStrip(tokens, puzzle.max, isShaded && values[peak] ? peak : null);
  for (const token of strip.querySelectorAll(".t")) delete token.dataset.tip;
  return strip;
}

// Firing and silent passages in an order that the feature's index decides.
function mixed(puzzle) {
  const all = [...puzzle.firing.map((p) => ({ ...p, fires: true })), ...puzzle.silent.map((p) => ({ ...p, fires: false }))];
  const turn = puzzle.index % all.length;
  const turned = [...all.slice(turn), ...all.slice(0, turn)];
  return puzzle.index % 2 ? [turned[0], turned[2], turned[1], turned[3]] : turned;
}

function setPuzzle(which) {
  const puzzle = puzzles[which];
  for (const button of document.querySelectorAll("[data-puzzle]")) button.setAttribute("aria-pressed", String(Number(button.dataset.puzzle) === which));
  document.getElementById("shown").replaceChildren(...puzzle.shown.map((p) => element("li", {}, passage(puzzle, p, true))));
  asked = mixed(puzzle);
  document.getElementById("asked").replaceChildren(
    ...asked.map((p, n) => {
      const box = element("input", { type: "checkbox", name: `p${n}` });
      box.setAttribute("aria-label", `It fires on passage ${n + 1}: ${p.pieces.join("").trim()}`);
      return element("div", { className: "choice" }, box, passage(puzzle, p, false));
    }),
  );
  document.getElementById("verdict").replaceChildren();
  document.getElementById("guess-form").elements.meaning.value = "";
}

function check(event) {
  event.preventDefault();
  const which = [...document.querySelectorAll("[data-puzzle]")].findIndex((button) => button.getAttribute("aria-pressed") === "true");
  const puzzle = puzzles[which];
  const form = document.getElementById("guess-form");
  const right = asked.filter((p, n) => form.elements[`p${n}`].checked === p.fires).length;
  document.querySelectorAll("#asked .choice").forEach((choice, n) => {
    choice.querySelector(".strip").replaceWith(passage(puzzle, asked[n], true));
    choice.classList.toggle("wrong", form.elements[`p${n}`].checked !== asked[n].fires);
  });
  const said = right === asked.length ? `All ${right} right.` : `${right} of ${asked.length} right; guessing alone gives ${asked.length / 2}.`;
  const promotes = puzzle.promotes.flatMap((piece) => [element("span", { className: "piece" }, glyphs(piece)), " "]);
  const guess = form.elements.meaning.value.trim();
  document.getElementById("verdict").replaceChildren(
    element("p", {}, element("strong", { textContent: said }), guess ? ` You said: “${guess}”.` : "", " The feature makes these tokens more likely: ", ...promotes),
    element("p", {}, element("a", { className: "button", href: address(`/sae/${puzzle.sae}/${puzzle.index}`), textContent: `See feature ${puzzle.index} whole, and test it on your own text` })),
  );
}

back.onclick = () => goTo(now - 1);
next.onclick = () => goTo(now + 1);
document.addEventListener("step", (event) => {
  event.preventDefault();
  goTo(now + event.detail);
});
window.addEventListener("hashchange", fromAddress);
document.getElementById("look-form").addEventListener("submit", look);
document.getElementById("guess-form")?.addEventListener("submit", check);
for (const button of document.querySelectorAll("[data-puzzle]")) button.onclick = () => setPuzzle(Number(button.dataset.puzzle));
if (puzzles.length) setPuzzle(0);
fromAddress();

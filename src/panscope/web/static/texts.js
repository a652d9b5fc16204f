// Both texts of the steering page as they are written, and how far each prediction moved.
import { number, percent } from "./numbers.js";
import { element } from "./page.js";
import { tokenElement, visible, wholeStrip } from "./strip.js";

const bars = document.getElementById("kl");
const title = document.getElementById("kl-title");
let seen = []; // the tokens so far

export function begin(prompt) {
  seen = [];
  for (const part of ["normal", "steered"]) {
    const strip = wholeStrip([], 0);
    strip.setAttribute("aria-label", `${part} text; arrow keys move`);
    strip.append(element("span", { className: "mono prompt", textContent: prompt }));
    document.getElementById(part).replaceChildren(strip);
  }
  bars.replaceChildren();
  title.textContent = "How far each prediction moved";
}

export function add(about) {
  seen.push(about);
  for (const part of ["normal", "steered"]) if (about[part]) append(part, about);
  if (about.kl_nats !== null) drawBars();
}

export const hasBegun = () => seen.length > 0;

// Of an edit the largest share of the value at its site so far.
export function shareOf(edit) {
  return Math.max(0, ...seen.map((one) => one.shares[edit] ?? 0));
}

function append(part, about) {
  const { id, piece, probability, likeliest } = about[part];
  const strip = document.getElementById(part).firstElementChild;
  const made = tokenElement({ piece, id, position: seen.length, value: 0 }, 0);
  const others = likeliest.map(([other, chance]) => `${percent(chance)} ${visible(other)}`).join("\n");
  const moved = part === "steered" && about.kl_nats !== null ? `\nKL ${number(about.kl_nats)} nats` : "";
  made.dataset.tip = `${visible(piece)} ${percent(probability)}${moved}\nlikeliest:\n${others}`;
  made.setAttribute("aria-label", `${visible(piece)} ${percent(probability)}${moved}`);
  made.classList.toggle("parted", part === "steered" && about.normal?.id !== id);
  made.tabIndex = strip.querySelector(".t") ? -1 : 0;
  strip.append(made);
  if (piece.includes("\n")) strip.append(element("br"));
}

function drawBars() {
  const moved = seen.filter((one) => one.kl_nats !== null);
  const top = Math.max(...moved.map((one) => one.kl_nats), 1e-9);
  const at = [...bars.children].findIndex((bar) => bar.tabIndex === 0);
  bars.replaceChildren(...moved.map((one, place) => barOf(one, place, top, place === Math.max(0, at))));
  const mean = moved.reduce((sum, one) => sum + Math.max(0, one.kl_nats), 0) / moved.length;
  title.textContent = `How far each prediction moved: ${number(mean)} nats a token on average, ${number(top)} at most`;
}

function barOf(one, place, top, isStop) {
  const bar = element("span", { tabIndex: isStop ? 0 : -1 });
  bar.style.setProperty("--h", Math.max(0, one.kl_nats) / top);
  bar.dataset.tip = `token ${place + 1} ${visible(one.steered.piece)}\nKL ${number(one.kl_nats)} nats`;
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", bar.dataset.tip.replace("\n", ", "));
  return bar;
}

bars.addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const to = by && [...bars.children][[...bars.children].indexOf(event.target) + by];
  if (!to) return;
  event.target.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
});

// Token strips: monospace tokens shaded by activation, folded around a peak or whole.
//
// A token is {piece, id, position, value}; `max` is the activation that gets the full shade.
import { number } from "./numbers.js";

const SIGNS = { " ": "·", "\n": "↵", "\t": "→", "\r": "␍" };

// A piece as nodes, blanks and breaks shown as grey signs. Text only: no piece is ever markup.
export function glyphs(piece) {
  const made = document.createDocumentFragment();
  for (const part of piece.split(/([ \n\t\r])/)) {
    if (part === "") continue;
    if (!SIGNS[part]) made.append(part);
    else {
      const sign = document.createElement("span");
      sign.className = "ws";
      sign.textContent = SIGNS[part];
      made.append(sign);
    }
  }
  return made;
}

export function visible(piece) {
  return piece.replace(/[ \n\t\r]/g, (blank) => SIGNS[blank]);
}

export function describe(token, max) {
  const share = max > 0 && token.value > 0 ? ` (${number((100 * token.value) / max)} % of the maximum)` : "";
  return `${token.value > 0 ? `value ${token.value}${share}` : "silent"}\nposition ${token.position}\ntoken ${token.id} ${visible(token.piece)}`;
}

export function shade(made, value, max) {
  if (value > 0 && max > 0) made.style.setProperty("--a", Math.min(1, value / max).toFixed(4));
  else made.style.removeProperty("--a");
}

export function tokenElement(token, max, isPeak = false) {
  const made = document.createElement("span");
  made.className = isPeak ? "t peak" : "t";
  made.classList.toggle("blank", token.piece.trim() === "");
  made.setAttribute("role", "button");
  made.setAttribute("aria-pressed", "false");
  made.tabIndex = -1;
  made.dataset.position = token.position;
  made.dataset.tip = describe(token, max);
  made.setAttribute("aria-label", `${visible(token.piece)} ${token.value > 0 ? number(token.value) : "silent"}`);
  made.append(glyphs(token.piece));
  shade(made, token.value, max);
  return made;
}

// All tokens, line breaks kept.
export function wholeStrip(tokens, max, peak = null) {
  const made = document.createElement("div");
  made.className = "strip whole";
  for (const token of tokens) {
    made.append(tokenElement(token, max, token.position === peak));
    if (token.piece.includes("\n")) made.append(document.createElement("br"));
  }
  return rove(made);
}

// The peak in the same column on every line, and as many whole tokens around it as `width` characters hold.
export function foldedStrip(tokens, max, peak, width) {
  const made = document.createElement("div");
  made.className = "strip fold";
  const at = tokens.findIndex((token) => token.position === peak);
  const before = fitting(tokens.slice(0, at).reverse(), width * 0.44).reverse();
  const after = fitting(tokens.slice(at + 1), width * 0.56 - space(tokens[at]));
  for (const part of [before, [tokens[at]], after]) {
    const side = document.createElement("span");
    side.append(...part.map((token) => tokenElement(token, max, token.position === peak)));
    made.append(side);
  }
  return rove(made);
}

// About three lines of `width` characters, the peak in the middle; breaks make them more.
export function snippetStrip(tokens, max, peak, width) {
  const at = tokens.findIndex((token) => token.position === peak);
  const before = fitting(tokens.slice(0, at).reverse(), width * 1.5).length;
  const after = fitting(tokens.slice(at + 1), width * 1.5).length;
  return wholeStrip(tokens.slice(at - before, at + after + 1), max, peak);
}

// Width of a token in characters: its text, and 5 px of padding and gap at 8 px a character.
function space(token) {
  return [...token.piece].length + 0.64;
}

function fitting(tokens, room) {
  let used = 0;
  let n = 0;
  while (n < tokens.length && used + space(tokens[n]) <= room) used += space(tokens[n++]);
  return tokens.slice(0, n);
}

// A strip is one stop for the tab key; arrows, Home and End move along it.
function rove(strip) {
  strip.setAttribute("role", "group");
  strip.setAttribute("aria-label", "Tokens; arrow keys move");
  const first = strip.querySelector(".peak") ?? strip.querySelector(".t");
  if (first) first.tabIndex = 0;
  strip.addEventListener("keydown", (event) => {
    const all = [...strip.querySelectorAll(".t")];
    const at = all.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      event.target.click();
    } else if (all[to]) {
      event.preventDefault();
      event.target.tabIndex = -1;
      all[to].tabIndex = 0;
      all[to].focus();
    }
  });
  return strip;
}

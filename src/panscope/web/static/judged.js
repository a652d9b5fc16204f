// What the scores of a label were judged on: the windows, what was said of each and what is true.
import { ask, sayFailure } from "./ask.js";
import { count, number } from "./numbers.js";
import { data, element, ofFeature } from "./page.js";
import { wholeStrip } from "./strip.js";

const { feature } = data().view;
const ASKED = {
  detection: ["Does it fire in this window?", ["silent", "fires"]],
  fuzzing: ["Does it fire on the underlined tokens?", ["no", "yes"]],
  simulation: ["How strongly does it fire on each token? The shade is its activation, the bar below it what was said.", ["silent", "fires"]],
};

function strip({ tokens, start, values, marked, foretold }, pieces, most) {
  const made = wholeStrip(tokens.map((id, n) => ({ id, piece: pieces[id], value: values[n], position: start + n })), feature.max);
  const all = made.querySelectorAll(".t");
  for (const place of marked) all[place]?.classList.add("peak");
  for (const [place, value] of (foretold ?? []).entries()) sayForetold(all[place], value, most);
  return made;
}

function sayForetold(token, value, most) {
  token.classList.add("foretold");
  token.style.setProperty("--said", most > 0 ? Math.max(0, value / most).toFixed(4) : 0);
  token.dataset.tip += `\nsaid ${number(value)} of ${number(most)} at most`;
  token.ariaLabel += `, said ${number(value)}`;
}

function verdict({ told, true: is }, words) {
  if (told === null) return element("td", { className: "muted", textContent: "no answer" });
  const isRight = told === is;
  const sign = element("span", { role: "img", textContent: isRight ? "✓" : "✗", className: isRight ? "right" : "wrong" });
  sign.setAttribute("aria-label", sign.className);
  return element("td", {}, sign, ` ${words[Number(told)]}`);
}

function summary({ judgements, n, n_failed }) {
  const told = judgements.filter((one) => one.told !== null);
  const right = told.filter((one) => one.told === one.true).length;
  const split = told.length ? `${right} right, ${told.length - right} wrong` : `${count(n)} answered`;
  const kept = judgements.length && judgements.length < n ? ` of the ${judgements.length} that were kept` : "";
  return `${split}${kept}, ${count(n_failed)} without a usable answer`;
}

function baseline(score) {
  const told = `Told by ${score.author || "its author"}: ${number(score.value)}. The same windows told by the label of another feature: ${number(score.baseline)}.`;
  return `${told} ${lost(score)}`.trim();
}

function lost({ n_lost, judgements }) {
  if (n_lost) return "They were windows of an atlas that was made anew since; panscope explain --rescore or another seed judges on this one.";
  return judgements.length ? "" : "What it was judged on was not kept.";
}

// A simulation tells no window's verdict: what was said stands below each token.
function table({ scorer, judgements }, pieces) {
  const [question, words] = ASKED[scorer] ?? ["", ["no", "yes"]];
  const most = Math.max(0, ...judgements.flatMap((one) => one.foretold ?? []));
  const isTold = judgements.some((one) => one.told !== null);
  const names = [...(isTold ? ["Said"] : []), "Is", "Window"];
  const head = names.map((textContent) => element("th", { scope: "col", textContent }));
  const rows = judgements.map((one) => {
    const said = isTold ? [verdict(one, words)] : [];
    const is = element("td", { textContent: words[Number(one.true)] });
    const missing = isTold || one.foretold ? [] : [element("span", { className: "muted", textContent: "no answer" })];
    return element("tr", {}, ...said, is, element("td", {}, ...missing, strip(one, pieces, most)));
  });
  return element("table", { className: "judged" }, element("caption", { className: "note", textContent: question }), element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
}

function section(score, { pieces, author }, place) {
  const by = score.author && score.author !== author ? ` by ${score.author}` : "";
  const title = element("summary", { textContent: `${score.scorer}${by}: ${summary(score)}` });
  const note = element("p", { className: "note", textContent: baseline(score) });
  const tables = score.judgements.length ? [table(score, pieces)] : [];
  return element("details", { open: place === 0 }, title, note, ...tables);
}

async function open(details) {
  const place = details.querySelector("div");
  if (!details.open || place.hasChildNodes()) return;
  try {
    const label = await ask(ofFeature(`labels/${details.dataset.judged}`));
    place.replaceChildren(...label.scores.map((score, n) => section(score, label, n)));
  } catch (error) {
    sayFailure(place, error, () => place.replaceChildren() || open(details));
  }
}

for (const details of document.querySelectorAll("[data-judged]")) details.addEventListener("toggle", () => open(details));

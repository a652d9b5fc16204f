// The live test: where the feature fires in a text of the reader's own.
import { ask, cancel, sayFailure } from "./ask.js";
import { number } from "./numbers.js";
import { data, element, remember } from "./page.js";
import { wholeStrip } from "./strip.js";
import { unpin } from "./tip.js";

const { feature, sae } = data().view;
const form = document.getElementById("test"); // absent where a page embeds this one without it
const result = document.getElementById("test-result");
export const canTry = form !== null;
let tell = () => {};

export function tryPassage(tokens) {
  form.elements.text.value = tokens.map((token) => token.piece).join("").trim();
  form.requestSubmit();
  form.scrollIntoView({ block: "center" });
}

async function runTest() {
  const text = form.elements.text.value;
  remember({ text: text.trim() });
  if (!text.trim()) {
    cancel("test");
    result.replaceChildren();
    return;
  }
  const stop = element("button", { type: "button", textContent: "Cancel", onclick: () => cancel("test") || result.replaceChildren() });
  result.replaceChildren(element("p", { className: "skeleton", textContent: "Running the model; the first time it is loaded, which takes some seconds. " }, stop));
  try {
    showTest(await ask("/api/test", { sae: sae.sae, index: feature.index, text }, "test"));
  } catch (error) {
    sayFailure(result, error, runTest);
  }
}

function showTest({ tokens, ids, values, note }) {
  const all = tokens.map((piece, n) => ({ piece, id: ids[n], value: values[n], position: n + 1 }));
  const fired = values.filter((value) => value > 0);
  const top = Math.max(0, ...values);
  const peak = fired.length ? values.indexOf(top) + 1 : null;
  const said = fired.length
    ? `Fires on ${fired.length} of ${tokens.length} tokens, at most ${number(top)}${feature.max ? `, ${number((100 * top) / feature.max)} % of its maximum` : ""}.`
    : `Silent on all ${tokens.length} tokens.`;
  tell(top);
  const more = note ? ` Text ${note}.` : "";
  result.replaceChildren(wholeStrip(all, feature.max || top, peak), element("p", { className: "note", textContent: said + more }));
}

// `told` hears of the strongest value of each text.
export function startTrial(told) {
  if (!canTry) return;
  tell = told;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    unpin();
    runTest();
  });
  form.elements.text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    form.requestSubmit();
  });
  const query = new URLSearchParams(location.search);
  form.elements.text.value = query.get("text") ?? query.get("defaulttesttext") ?? "";
  if (form.elements.text.value) runTest();
}

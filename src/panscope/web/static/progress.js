// The progress page: the run's stages, asked for again every second while the page is in view.
import { address } from "./address.js";
import { ask } from "./ask.js";
import { number } from "./numbers.js";
import { element } from "./page.js";
import { named, stageElement } from "./stage.js";

const stages = document.getElementById("stages");
const away = document.getElementById("away");
const training = document.getElementById("training");
const warned = document.getElementById("warned");

function drawSaes(saes) {
  const names = [...new Set(Object.values(saes).flatMap(Object.keys))];
  training.hidden = names.length === 0;
  const head = ["Sae", ...names.map(named)].map((textContent, n) => element("th", { textContent, scope: "col", className: n ? "n" : "" }));
  training.querySelector("thead").replaceChildren(element("tr", {}, ...head));
  const rows = Object.entries(saes).map(([sae, numbers]) =>
    element(
      "tr",
      {},
      element("td", { textContent: sae, className: "mono" }),
      ...names.map((name) => element("td", { className: "n", textContent: number(numbers[name] ?? null), title: numbers[name] ?? "" })),
    ),
  );
  training.querySelector("tbody").replaceChildren(...rows);
}

function draw({ stages: all, saes, warnings }) {
  const none = element("li", { className: "empty" }, "No stage of this run has written events. ", element("a", { href: address("/"), textContent: "Go to the suite" }));
  stages.replaceChildren(...(all.length ? all.map(stageElement) : [none]));
  drawSaes(saes);
  warned.hidden = warnings.length === 0;
  warned.querySelector("ul").replaceChildren(...warnings.map((textContent) => element("li", { textContent })));
}

async function look() {
  if (document.visibilityState === "visible") {
    try {
      draw(await ask("/api/progress"));
      away.hidden = true;
    } catch (error) {
      away.hidden = false;
      away.textContent = `${error.message}. Trying again every second.`;
    }
  }
  setTimeout(look, 1000);
}

look();

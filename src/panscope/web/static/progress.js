// The progress page: the run's stages, asked for again every second while the page is in view.
import { address } from "./address.js";
import { ask } from "./ask.js";
import { count, number } from "./numbers.js";
import { element } from "./page.js";

const SAID = { running: "at work", quiet: "no news", done: "done", reused: "was done already" };
const NAMES = { l0: "L0", fvu: "FVU", threshold_p10: "threshold 10 %", threshold_p50: "threshold 50 %", threshold_p90: "threshold 90 %" };
const stages = document.getElementById("stages");
const away = document.getElementById("away");
const training = document.getElementById("training");
const warned = document.getElementById("warned");

const named = (metric) => NAMES[metric] ?? metric.replaceAll("_", " ");

function duration(seconds) {
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.round(seconds) % 60];
  return h ? `${h} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
}

function timeOf(stage) {
  if (stage.state === "quiet") return `for ${duration(Date.now() / 1000 - stage.last)}: stopped, or at a long step`;
  if (stage.state === "running") return stage.left_seconds === null ? "" : `about ${duration(stage.left_seconds)} left`;
  return stage.last > stage.began ? `in ${duration(stage.last - stage.began)}` : "";
}

function stageElement(stage) {
  const bar = element("progress", { max: stage.total || 1, value: stage.total ? stage.done : 1 });
  bar.setAttribute("aria-label", `${stage.stage}: ${stage.done} of ${stage.total} ${stage.unit}`);
  const metrics = Object.entries(stage.metrics).map(([name, value]) => `${named(name)} ${number(value)}`);
  const made = element(
    "li",
    { className: `stage ${stage.state}` },
    element("h2", { textContent: stage.stage }),
    element("p", { className: "note", textContent: [SAID[stage.state], timeOf(stage)].filter(Boolean).join(stage.state === "quiet" ? " " : ", ") }),
    bar,
    element("span", { className: "n", textContent: stage.total ? `${count(stage.done)} of ${count(stage.total)} ${stage.unit}` : "" }),
  );
  if (metrics.length) made.append(element("p", { className: "note mono", textContent: metrics.join("   ") }));
  return made;
}

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

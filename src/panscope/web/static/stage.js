// A stage at work, as a list's item: how far it is, how long it takes, its latest metrics.
import { count, number } from "./numbers.js";
import { element } from "./page.js";

const SAID = { running: "at work", quiet: "no news", done: "done", reused: "was done already" };
const NAMES = { l0: "L0", fvu: "FVU", threshold_p10: "threshold 10\u00a0%", threshold_p50: "threshold 50\u00a0%", threshold_p90: "threshold 90\u00a0%" };

export const named = (metric) => NAMES[metric] ?? metric.replaceAll("_", " ");

function duration(seconds) {
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.round(seconds) % 60];
  return h ? `${h} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
}

function timeOf(stage) {
  if (stage.state === "quiet") return `for ${duration(Date.now() / 1000 - stage.last)}: stopped, or at a long step`;
  if (stage.state === "running") return stage.left_seconds === null ? "" : `about ${duration(stage.left_seconds)} left`;
  return stage.last > stage.began ? `in ${duration(stage.last - stage.began)}` : "";
}

export function stageElement(stage) {
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

// What a search found, as strips: a feature's name, label, numbers and tokens; by a text also where
// in the text it fires.
import { address } from "./address.js";
import { density, number } from "./numbers.js";
import { element } from "./page.js";
import { foldedStrip, glyphs, wholeStrip } from "./strip.js";

const CHARACTER = 7.8; // px of the strips' monospace at 13 px
const N_TOKENS = 5;

// `measure` says by what the search ranked, null for what is told anyway; `tokens` are those of the text that was asked about.
export function hitElement(hit, pieces, measure, tokens, width) {
  const { sae, row, label } = hit;
  const [site, name] = [sae.slice(0, sae.indexOf("/")), sae.slice(sae.indexOf("/") + 1)];
  const made = element(
    "li",
    { className: "hit" },
    element("a", { className: "to", href: address(`/sae/${sae}/${row.index}`), textContent: `${site} ${row.index}`, title: `${sae}, feature ${row.index}` }),
    element("span", { className: label ? "label" : "label none", textContent: label || "no label" }),
    numbers(hit, measure),
    element("span", { className: "of", textContent: name, title: sae }),
    element("span", { className: "tokens" }, ...listed("fires on", row.peak_tokens, pieces), ...listed("promotes", row.top_tokens, pieces)),
  );
  if (hit.positions.length) made.append(element("div", { className: "in-text" }, where(hit, tokens, width)));
  return made;
}

function numbers({ row, value }, measure) {
  const one = (className, shown, title) => element("span", { className, textContent: shown, title });
  const made = element("span", { className: "numbers" });
  if (measure) made.append(one("measure", measure(number(value)), value));
  made.append(one("density", row.density ? `density ${density(row.density)}` : "dead", row.density), one("max", `max ${number(row.max)}`, row.max));
  return made;
}

function listed(said, ids, pieces) {
  if (!ids.length) return [];
  return [element("span", {}, said, ...ids.slice(0, N_TOKENS).map((id) => element("span", { className: "piece" }, glyphs(pieces[id]))))];
}

// The text around the token on which the feature fires most; the list's own keys lead past it.
function where({ row, positions, values }, tokens, width) {
  const at = new Map(positions.map((place, n) => [place, values[n]]));
  const shown = tokens.map((piece, place) => ({ piece, id: "", position: place + 1, value: at.get(place) ?? 0 }));
  const peak = positions[values.indexOf(Math.max(...values))] + 1;
  const fits = tokens.join("").length + 0.64 * tokens.length < width / CHARACTER;
  const strip = fits ? wholeStrip(shown, row.max, peak) : foldedStrip(shown, row.max, peak, width / CHARACTER);
  for (const token of strip.querySelectorAll(".t")) token.tabIndex = -1;
  return strip;
}

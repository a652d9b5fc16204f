// Stands in for ask.js in a frozen copy: lists come from the page's own data, the rest needs a server.

function listed() {
  const place = document.getElementById("rows");
  return place ? JSON.parse(place.textContent) : {};
}

export async function ask(path) {
  const found = /\/features\?(.*)$/.exec(path);
  const { rows, pieces } = listed();
  if (!found || !rows) throw new Error("This needs a running server: panscope serve");
  const query = new URLSearchParams(found[1]);
  const chosen = rows.filter((row) => answers(row, query, pieces));
  const key = query.get("sort");
  const sign = query.get("descending") === "true" ? -1 : 1;
  chosen.sort((a, b) => sign * (a[key] - b[key]) || a.index - b.index);
  const offset = Number(query.get("offset"));
  const shown = chosen.slice(offset, offset + Number(query.get("limit")));
  return { total: chosen.length, offset, rows: shown, pieces, nearest: "" };
}

function answers(row, query, pieces) {
  if (row.density < Number(query.get("low") ?? 0) || row.density > Number(query.get("high") ?? 1)) return false;
  if (query.get("alive") === "true" && !row.density) return false;
  const text = query.get("text")?.replaceAll("·", " ").replaceAll("↵", "\n").toLowerCase();
  return !text || [...row.top_tokens, ...row.peak_tokens].some((id) => pieces[id].toLowerCase().includes(text));
}

export function cancel() {}

export function sayFailure(place, error) {
  place.hidden = false;
  place.replaceChildren(`${error.message}.`);
}

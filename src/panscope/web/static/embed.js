// What another site's page needs to show this one in it: its parts are ticked, the code is copied.
const box = document.getElementById("embed");
const code = box.querySelector("textarea");
const quoted = (text) => text.replaceAll("&", "&amp;").replaceAll('"', "&quot;");

function write() {
  const query = new URLSearchParams({ embed: true });
  for (const part of box.querySelectorAll("input")) if (!part.checked) query.set(`embed${part.name}`, "false");
  const shown = new URLSearchParams(location.search);
  for (const name of ["size", "breaks"]) if (shown.has(name)) query.set(name, shown.get(name));
  if (shown.get("text")) query.set("defaulttesttext", shown.get("text"));
  const address = `${location.origin}${location.pathname}?${query}`;
  code.value = `<iframe src="${quoted(address)}" title="${quoted(document.title)}" width="100%" height="600"></iframe>`;
}

box.addEventListener("toggle", write);
box.addEventListener("change", write);
code.addEventListener("focus", () => code.select());

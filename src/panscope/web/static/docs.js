// The API's page, drawn from /openapi.json: routes by tag, what they take and give, and a way to try.
import { ask, sayFailure } from "./ask.js";
import { element } from "./page.js";

const place = document.getElementById("routes");
const filter = document.getElementById("filter");
let spec = null;

function resolved(schema) {
  const name = schema?.$ref?.split("/").at(-1);
  return name ? { name, ...spec.components.schemas[name] } : (schema ?? {});
}

// A schema as one line: `list of Seen`, `integer or null`, `"index" | "density"`.
function typeText(schema) {
  if (!schema) return "anything";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(typeText).join(" or ");
  if (schema.type === "array") return `list of ${typeText(schema.items)}`;
  if (schema.type === "object" && schema.additionalProperties) return `map to ${typeText(schema.additionalProperties)}`;
  const bounds = [["minimum", "≥"], ["exclusiveMinimum", ">"], ["maximum", "≤"], ["maxLength", "length ≤"]];
  const limits = bounds.flatMap(([key, sign]) => (schema[key] === undefined ? [] : [`${sign} ${schema[key]}`]));
  return [schema.type ?? "anything", ...limits].join(", ");
}

function fieldTable(schema, seen = new Set()) {
  const whole = resolved(schema);
  const inside = whole.items ? resolved(whole.items) : whole;
  if (!inside.properties || seen.has(inside.name)) return element("p", { className: "note", textContent: typeText(schema) });
  seen.add(inside.name);
  const body = element("tbody");
  const deeper = [];
  for (const [name, field] of Object.entries(inside.properties)) {
    body.append(element("tr", {}, element("td", { className: "mono", textContent: name }), element("td", { textContent: typeText(field) })));
    const below = resolved(field.items ?? field);
    if (below.properties && !seen.has(below.name)) deeper.push(fieldTable(field.items ?? field, seen));
  }
  const title = element("h4", { className: "mono", textContent: inside.name ?? "object" });
  return element("div", {}, title, element("p", { className: "note", textContent: inside.description ?? "" }), element("div", { className: "table-wrap" }, element("table", {}, body)), ...deeper);
}

function inputFor(parameter) {
  const { name, required, schema } = parameter;
  const input = element("input", { name, required, value: schema.default ?? "", autocomplete: "off" });
  if (name === "sae") input.placeholder = "resid_post.0/…";
  return element("label", {}, element("span", { textContent: name + (required ? " *" : "") }), input, element("small", { textContent: typeText(schema) }));
}

function example(schema) {
  const made = {};
  for (const [name, field] of Object.entries(resolved(schema).properties ?? {})) made[name] = field.default ?? { string: "", integer: 0, array: [] }[field.type] ?? null;
  return JSON.stringify(made, null, 1);
}

function tryForm(path, verb, operation) {
  const body = operation.requestBody?.content["application/json"].schema;
  const parameters = operation.parameters ?? [];
  const form = element("form", { className: "fields" }, ...parameters.map(inputFor));
  const box = element("textarea", { name: "body", rows: 6, value: body ? example(body) : "" });
  if (body) form.append(element("label", {}, element("span", { textContent: "body *" }), box, element("small", { textContent: typeText(body) })));
  const answer = element("pre", { hidden: true, tabIndex: 0 });
  answer.setAttribute("aria-label", "Answer");
  form.append(element("div", {}, element("button", { textContent: "Try it" })), answer);
  form.onsubmit = (event) => {
    event.preventDefault();
    run(form, path, parameters, body ? box.value : null, answer);
  };
  return form;
}

async function run(form, path, parameters, body, answer) {
  const query = new URLSearchParams();
  let filled = path;
  for (const { name, in: where } of parameters) {
    const value = form.elements[name].value;
    if (where === "path") filled = filled.replace(`{${name}}`, value.split("/").map(encodeURIComponent).join("/"));
    else if (value !== "") query.set(name, value);
  }
  const address = filled + (query.size ? `?${query}` : "");
  if (filled.endsWith(".csv")) return location.assign(address);
  try {
    const text = JSON.stringify(await ask(address, body === null ? null : JSON.parse(body)), null, 1);
    answer.textContent = text.length > 20000 ? `${text.slice(0, 20000)}\n… ${text.length - 20000} more characters` : text;
    answer.hidden = false;
  } catch (error) {
    sayFailure(answer, error, () => form.requestSubmit());
  }
  return undefined;
}

function route(path, verb, operation) {
  const given = operation.responses["200"]?.content?.["application/json"]?.schema;
  const made = element(
    "details",
    { className: "route" },
    element("summary", {}, element("span", { className: "verb", textContent: verb.toUpperCase() }), element("span", { className: "path", textContent: path }), element("span", { className: "muted", textContent: operation.description?.split("\n")[0] ?? "" })),
  );
  made.ontoggle = () => {
    if (!made.open || made.children.length > 1) return;
    const parts = [element("h3", { textContent: "Takes" }), tryForm(path, verb, operation)];
    if (given) parts.push(element("h3", { textContent: `Gives ${typeText(given)}` }), fieldTable(given));
    const more = operation.description?.split("\n").slice(1).join(" ").trim();
    if (more) parts.unshift(element("p", { textContent: more }));
    made.append(element("div", { className: "inside" }, ...parts));
  };
  return made;
}

function draw() {
  const byTag = Map.groupBy(
    Object.entries(spec.paths).flatMap(([path, verbs]) => Object.entries(verbs).map(([verb, operation]) => ({ path, verb, operation }))),
    ({ operation }) => operation.tags?.[0] ?? "other",
  );
  place.replaceChildren();
  for (const [tag, routes] of byTag) {
    const shown = routes.map(({ path, verb, operation }) => route(path, verb, operation));
    place.append(element("section", {}, element("h2", { className: "tag-title", textContent: tag }), ...shown));
  }
}

function applyFilter() {
  const wanted = filter.value.toLowerCase();
  for (const made of place.querySelectorAll(".route")) made.hidden = !made.querySelector("summary").textContent.toLowerCase().includes(wanted);
}

async function read() {
  try {
    spec = await ask("/openapi.json");
    draw();
  } catch (error) {
    sayFailure(place, error, read);
  }
}

filter.oninput = applyFilter;
document.addEventListener("step", (event) => {
  event.preventDefault();
  const all = [...place.querySelectorAll(".route:not([hidden]) > summary")];
  all[Math.min(Math.max(all.indexOf(document.activeElement) + event.detail, 0), all.length - 1)]?.focus();
});
read();

// What is wrong with a field, in one sentence beside it.
import { element } from "./page.js";

let n = 0;

// The sentence for a field that is shown and cannot be used; a field says it in data-problem.
export function problemOf(field) {
  if (!field.willValidate || field.validity.valid || !field.checkVisibility()) return "";
  return field.validity.customError ? field.validationMessage : (field.dataset.problem ?? field.validationMessage);
}

export function refuse(field, sentence) {
  settle(field);
  const said = element("span", { className: "problem", id: `problem-${++n}`, textContent: sentence });
  said.setAttribute("role", "alert");
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", said.id);
  field.closest("label").after(said);
}

export function settle(field) {
  if (!field.hasAttribute("aria-invalid")) return;
  document.getElementById(field.getAttribute("aria-describedby"))?.remove();
  field.removeAttribute("aria-invalid");
  field.removeAttribute("aria-describedby");
}

// Refuse every field of a form that cannot be used, and go to the first; whether there was none.
export function isUsable(form) {
  const wrong = [...form.elements].filter((field) => (settle(field), problemOf(field)));
  for (const field of wrong) refuse(field, problemOf(field));
  wrong[0]?.focus();
  return wrong.length === 0;
}

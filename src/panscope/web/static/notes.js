// The notes: what was kept is taken away again by those who may write here.
import { ask } from "./ask.js";
import { sentence } from "./page.js";
import { mayWrite } from "./writing.js";

async function forget(button) {
  const row = button.closest("tr");
  if (button.dataset.ask && !confirm(button.dataset.ask)) return;
  try {
    await ask(button.dataset.forget, null, button, "DELETE");
    row.remove();
  } catch (error) {
    if (error.name !== "AbortError") button.textContent = sentence(error);
  }
}

async function offerForgetting() {
  if (!(await mayWrite())) return;
  for (const button of document.querySelectorAll("[data-forget]")) {
    button.hidden = false;
    button.onclick = () => forget(button);
  }
}

offerForgetting();

// The notes: bookmarks and edits are taken away again by those who may write here.
import { ask } from "./ask.js";
import { authorisation } from "./token.js";

async function forget(button) {
  const row = button.closest("tr");
  if (button.dataset.ask && !confirm(button.dataset.ask)) return;
  try {
    await ask(button.dataset.forget, null, button, "DELETE");
    row.remove();
  } catch (error) {
    if (error.name !== "AbortError") button.textContent = `${error.message}.`;
  }
}

async function offerForgetting() {
  const { accepted } = await ask("/api/writing");
  for (const button of document.querySelectorAll("[data-forget]")) {
    button.hidden = !accepted;
    button.onclick = () => forget(button);
  }
}

if (authorisation().authorization) offerForgetting();

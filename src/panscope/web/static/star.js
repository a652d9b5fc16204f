// A star on a feature's page: the button is there for those who may write here.
import { ask } from "./ask.js";
import { ofFeature, sentence } from "./page.js";
import { mayWrite } from "./writing.js";

const star = document.getElementById("star");

async function toggle() {
  const isKept = star.getAttribute("aria-pressed") === "true";
  const verb = isKept ? "DELETE" : "PUT";
  try {
    await ask(ofFeature("bookmark"), null, "bookmark", verb);
    star.setAttribute("aria-pressed", String(!isKept));
  } catch (error) {
    if (error.name !== "AbortError") star.textContent = sentence(error);
  }
}

async function offerStar() {
  star.hidden = !(await mayWrite());
  star.onclick = toggle;
}

if (star) offerStar();

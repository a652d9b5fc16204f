// A star on a feature's page: the button is there for those who may write here.
import { ask } from "./ask.js";
import { data, sentence } from "./page.js";
import { authorisation } from "./token.js";

const star = document.getElementById("star");

async function toggle() {
  const { sae, feature } = data().view;
  const isKept = star.getAttribute("aria-pressed") === "true";
  const verb = isKept ? "DELETE" : "PUT";
  try {
    await ask(`/api/sae/${sae.sae}/feature/${feature.index}/bookmark`, null, "bookmark", verb);
    star.setAttribute("aria-pressed", String(!isKept));
  } catch (error) {
    if (error.name !== "AbortError") star.textContent = sentence(error);
  }
}

async function offerStar() {
  const { accepted } = await ask("/api/writing", null, "star");
  star.hidden = !accepted;
  star.onclick = toggle;
}

if (star && authorisation().authorization) offerStar();

// Requests to the API: failures become one sentence, and a newer request ends an older one.
import { address } from "./address.js";
import { sentence } from "./page.js";
import { authorisation } from "./token.js";

const running = new Map();

export async function ask(path, body = null, key = path, method = body ? "POST" : "GET") {
  running.get(key)?.abort();
  const control = new AbortController();
  running.set(key, control);
  const options = { method, signal: control.signal, headers: authorisation() };
  if (body) {
    options.body = JSON.stringify(body);
    options.headers["content-type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(address(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer; start panscope serve again, then retry", { cause: error });
  }
  const tree = await answer.json();
  if (!answer.ok) throw new Error(tree.error.message);
  return tree;
}

// The places of a Sae's features on its map: three columns of float32, one after another.
export async function askPlaces(sae) {
  const answer = await fetch(address(`/api/sae/${sae}/map`));
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  const all = new Float32Array(await answer.arrayBuffer());
  const n = all.length / 3;
  return { indices: Uint32Array.from({ length: n }, (_, i) => i), xs: all.subarray(0, n), ys: all.subarray(n, 2 * n), logs: all.subarray(2 * n) };
}

export function cancel(key) {
  running.get(key)?.abort();
}

// Say a failure where the result would have been, with a way to try again.
export function sayFailure(place, error, retry) {
  if (error.name === "AbortError") return;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Retry";
  button.onclick = retry;
  place.hidden = false;
  place.replaceChildren(`${sentence(error)} `, button);
}

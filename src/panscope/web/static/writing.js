// Whether who reads may write here: asked once a page, and only by who has a token.
import { ask } from "./ask.js";
import { authorisation } from "./token.js";

let asked = null;

export async function mayWrite() {
  if (!authorisation().authorization) return false;
  asked ??= ask("/api/writing");
  return (await asked).accepted;
}

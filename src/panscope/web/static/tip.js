// One tooltip for the page: shows what `data-tip` says, on hover and on focus, and stays when pinned.
const tip = document.createElement("div");
tip.className = "tip";
tip.id = "tip";
tip.setAttribute("role", "tooltip");
tip.hidden = true;
document.body.append(tip);
let pinned = null;

function place(target) {
  const box = target.getBoundingClientRect();
  const own = tip.getBoundingClientRect();
  const left = Math.min(Math.max(4, box.left + box.width / 2 - own.width / 2), innerWidth - own.width - 4);
  const above = box.top - own.height - 6;
  tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(above > 4 ? above : box.bottom + 6)}px)`;
}

function show(target) {
  tip.textContent = target.dataset.tip;
  tip.hidden = false;
  tip.classList.toggle("pinned", target === pinned);
  target.setAttribute("aria-describedby", "tip");
  place(target);
}

function hide(target) {
  target?.removeAttribute("aria-describedby");
  if (pinned?.isConnected) show(pinned);
  else tip.hidden = true;
}

export function pin(target) {
  pinned?.setAttribute("aria-pressed", "false");
  pinned = pinned === target ? null : target;
  if (pinned) {
    pinned.setAttribute("aria-pressed", "true");
    show(pinned);
  } else hide(target);
  return pinned;
}

export function unpin() {
  if (pinned) pin(pinned);
}

const tipped = (event) => event.target.closest?.("[data-tip]");
document.addEventListener("pointerover", (event) => tipped(event) && show(tipped(event)));
document.addEventListener("pointerout", (event) => tipped(event) && hide(tipped(event)));
document.addEventListener("focusin", (event) => tipped(event) && show(tipped(event)));
document.addEventListener("focusout", (event) => tipped(event) && hide(tipped(event)));
document.addEventListener("scroll", () => (pinned?.isConnected ? place(pinned) : (tip.hidden = true)), { capture: true, passive: true });
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  unpin();
  tip.hidden = true;
});

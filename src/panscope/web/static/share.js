// A button that copies the address of the page, in which its state stands.
export function shares(button) {
  button.onclick = async () => {
    // Browsers offer the clipboard only over https and to this machine itself.
    if (!navigator.clipboard) return window.prompt("Link to this view", location.href);
    await navigator.clipboard.writeText(location.href);
    button.textContent = "Copied";
    return setTimeout(() => (button.textContent = "Copy link"), 1500);
  };
}

// What this browser remembers of how somebody works; inside another site's page it may not.
export function kept(name) {
  try {
    return localStorage.getItem(`panscope-${name}`);
  } catch {
    return null;
  }
}

export function keep(name, value) {
  try {
    localStorage.setItem(`panscope-${name}`, value);
  } catch {} // then it is chosen anew each time
}

// Sets the chosen theme before the first paint, so a page never flashes in the other one.
// Inside another site's page a browser may keep nothing, and says so by throwing.
try {
  const chosen = localStorage.getItem("panscope-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {}

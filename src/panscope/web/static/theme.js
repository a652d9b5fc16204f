// Sets the chosen theme before the first paint, so a page never flashes in the other one.
const chosen = localStorage.getItem("panscope-theme");
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;

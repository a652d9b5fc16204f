// Addresses that scripts make: as they are on a server, behind a run's prefix where it shows several
// runs, as files in a frozen copy.
const { root = "", frozen } = document.documentElement.dataset;

export function address(path) {
  if (frozen === undefined) return root + path;
  if (path === "/") return `${root}/index.html`;
  return root + path + (/^\/sae\/.*\/\d+$/.test(path) ? ".html" : "/index.html");
}

// The token of a server that can be written to: it comes behind the # of the address that the server
// printed, is kept for this tab alone, and is taken out of the address at once.
const KEY = "panscope-token";

const given = /^#token=([\w-]+)$/.exec(location.hash);
if (given) {
  sessionStorage.setItem(KEY, given[1]);
  history.replaceState(null, "", location.pathname + location.search);
}

export function authorisation() {
  try {
    const token = sessionStorage.getItem(KEY);
    return token ? { authorization: `Bearer ${token}` } : {};
  } catch {
    return {}; // inside another site's page, where the browser keeps nothing
  }
}

// What both consoles share: theme, the state and the stream that says when it changed, formats.

const THEME = "fdfed-theme";

/** Follows the system's theme unless the reader chose one; `changed` is called after a switch. */
export function followTheme(select, changed) {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const chosen = localStorage.getItem(THEME) ?? "system";
    const dark = chosen === "dark" || (chosen === "system" && system.matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    select.value = chosen;
    changed();
  };
  select.addEventListener("change", () => {
    localStorage.setItem(THEME, select.value);
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}

/** Calls `show` with the state now and after every change; `live` shows whether we still hear. */
export function followState(live, show) {
  const heard = (yes) => {
    live.dataset.state = yes ? "live" : "lost";
    live.textContent = yes ? "live" : "no connection";
  };
  let asked = 0;
  const load = async () => {
    const mine = ++asked;
    const answer = await fetch("/api/state");
    if (answer.status === 401) location.assign("/login");
    if (!answer.ok) throw new Error(`the state answered ${answer.status}`);
    const state = await answer.json();
    if (mine === asked) show(state); // a slower, older answer must not overwrite a newer one
  };
  const events = new EventSource("/api/events");
  events.addEventListener("open", () => heard(true));
  events.addEventListener("error", () => heard(false));
  events.addEventListener("change", () => load().catch(() => heard(false)));
}

/** Asks the server to act; a refusal is shown in words. */
export async function act(path, sayFailure) {
  const answer = await fetch(path, { method: "POST", headers: { "x-fdfed-console": "1" } });
  if (!answer.ok) {
    const detail = await answer.json().catch(() => ({}));
    sayFailure(detail.detail ?? `the server answered ${answer.status}`);
  }
}

/** An element with text (never markup: what a site says of itself is shown as it is). */
export function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Replaces a table's body: one array a row; numbers stand right, the first cell is the row's head. */
export function fillTable(table, rows) {
  table.tBodies[0].replaceChildren(
    ...rows.map((cells) => {
      const row = element("tr");
      cells.forEach((cell, index) => {
        const tag = index === 0 ? "th" : "td";
        const made = element(tag, String(cell), index === 0 ? { scope: "row" } : {});
        if (table.tHead.rows[0].cells[index].classList.contains("n")) made.classList.add("n");
        row.append(made);
      });
      return row;
    }),
  );
}

export const NOTHING = "–";
const known = (value) => value !== null && value !== undefined;
export const score = (value) => (known(value) ? value.toFixed(3) : NOTHING);
export const number = (value, digits = 3) =>
  known(value) ? String(Number(value.toPrecision(digits))).replace("-", "−") : NOTHING;
export const count = (value) => (known(value) ? value.toLocaleString("en") : NOTHING);

export function bytes(value) {
  if (!known(value)) return NOTHING;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 999.5) return `${value.toFixed(unit === "B" || value >= 99.95 ? 0 : 1)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} TB`;
}

export function seconds(value) {
  if (!known(value)) return NOTHING;
  if (value < 60) return `${number(value)} s`;
  const minutes = Math.floor(value / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(value % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

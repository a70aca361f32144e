"use strict";
const root = document.documentElement;

// Light and dark: the system's setting until the button is pressed.
const theme = document.getElementById("theme");
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
const nameTheme = () => { theme.textContent = isDark() ? "light" : "dark"; };
theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
systemDark.addEventListener("change", nameTheme);
theme.hidden = false;
nameTheme();

// Sorting: descending, then ascending, then the original order (names: ascending first). Missing values stay last.
function sortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const [upper, lower] = table.tHead.rows;
  const heads = [...upper.cells].filter((head) => head.rowSpan > 1).concat([...lower.cells]);
  let sorted = null;

  function keyOf(row, index) {
    const cell = row.cells[index];
    const shown = table.classList.contains("changes") ? cell.dataset.change ?? cell.dataset.sort : cell.dataset.sort;
    return shown === undefined ? null : index === 0 ? shown : Number(shown);
  }

  function resort() {
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    table.classList.toggle("sorted", sorted !== null);
    let rows = original;
    if (sorted !== null) {
      const { index, sign } = sorted;
      heads[index].setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
      const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
      const keyed = original.map((row) => [keyOf(row, index), row]);
      const known = keyed.filter(([key]) => key !== null).sort(([a], [b]) => sign * compare(a, b));
      rows = [...known, ...keyed.filter(([key]) => key === null)].map(([, row]) => row);
    }
    body.append(...rows);
  }

  heads.forEach((head, index) => {
    const first = index === 0 ? 1 : -1;
    head.querySelector("button").addEventListener("click", () => {
      if (sorted === null || sorted.index !== index) sorted = { index, sign: first };
      else sorted = sorted.sign === first ? { index, sign: -first } : null;
      resort();
    });
  });
  return resort;
}
const [resort] = [...document.querySelectorAll("table.numbers")].map(sortable);

// Values or changes.
const changes = document.getElementById("changes");
if (changes) {
  changes.parentElement.hidden = false;
  changes.addEventListener("click", () => {
    const pressed = document.querySelector("table.numbers").classList.toggle("changes");
    changes.setAttribute("aria-pressed", String(pressed));
    resort();
  });
}

// Tables that are wider than their box say so.
const boxes = [...document.querySelectorAll(".scroll")];
const mark = (box) => box.classList.toggle("wider", box.scrollWidth > box.clientWidth + 1);
const observer = new ResizeObserver((entries) => entries.forEach(({ target }) => mark(target)));
boxes.forEach((box) => observer.observe(box));

// A link to a number opens the record with its measurement.
function reveal() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let parent = target; parent; parent = parent.parentElement) if (parent.tagName === "DETAILS") parent.open = true;
  target.scrollIntoView({ block: "center" });
}
addEventListener("hashchange", reveal);
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (link && link.getAttribute("href") === location.hash) reveal(); // the same number again
});
reveal();

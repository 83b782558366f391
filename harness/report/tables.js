"use strict";
// Tables that sort by a click on a head and show only the rows that hold a text.
const harness = {};
(() => {
  const UNITS = {B: 1, kB: 1e3, MB: 1e6, "µs": 1e-3, ms: 1, s: 1e3, "%": 1};

  // What a cell is sorted by: its key, or the quantity that its text begins with, or the text.
  const key = cell => {
    const text = cell.dataset.key ?? cell.textContent.trim();
    const found = text.match(/^([-+]?[\d.]+(?:e[-+]?\d+)?)(?: (\S+))?/i);
    const number = found ? Number(found[1]) * (UNITS[found[2]] ?? 1) : NaN;
    return {text, number};
  };

  // Numbers first, then texts, then empty cells, whatever the direction; equal rows keep their order.
  const compare = sign => ([a], [b]) => {
    const rank = k => k.text === "" ? 2 : isNaN(k.number) ? 1 : 0;
    if (rank(a) !== rank(b)) return rank(a) - rank(b);
    return sign * (rank(a) === 0 ? a.number - b.number : a.text.localeCompare(b.text));
  };

  const sort = (table, i) => {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    const down = heads[i].getAttribute("aria-sort") === "ascending";
    heads.forEach(head => head.removeAttribute("aria-sort"));
    heads[i].setAttribute("aria-sort", down ? "descending" : "ascending");
    const keyed = [...body.rows].map(row => [key(row.cells[i]), row]);
    body.append(...keyed.sort(compare(down ? -1 : 1)).map(([, row]) => row));
  };

  const filter = (table, text, only, shown) => {
    const rows = [...table.tBodies[0].rows], wanted = text.value.trim().toLowerCase();
    for (const row of rows) {
      const kept = !only?.checked || row.classList.contains("front");
      row.hidden = !kept || !row.textContent.toLowerCase().includes(wanted);
    }
    shown.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} shown`;
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, i) =>
      head.querySelector("button").addEventListener("click", () => sort(table, i)));
  }
  for (const text of document.querySelectorAll("input.filter")) {
    const tools = text.closest(".tools"), only = tools.querySelector(".only"), shown = tools.querySelector(".shown");
    const update = () => filter(document.getElementById(text.getAttribute("aria-controls")), text, only, shown);
    text.addEventListener("input", update);
    only?.addEventListener("change", update);
    update();
  }
})();

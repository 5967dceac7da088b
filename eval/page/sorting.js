"use strict";
/* Tables that sort by a press on a heading: best first, worst first, then the order of before. */
(() => {
  const number = (cell) => {
    const value = parseFloat(cell.dataset.sort ?? cell.textContent.replace("−", "-"));
    return Number.isNaN(value) ? null : value;
  };

  function sortable(table) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    const first = [...body.rows];
    const turns = new Map();

    function sort(head, index) {
      // a heading says which end is better; without an arrow numbers start with the smallest, like words
      const best = head.textContent.includes("↑") ? "descending" : "ascending";
      const orders = ["none", best, best === "ascending" ? "descending" : "ascending"];
      const order = orders[(orders.indexOf(turns.get(head) ?? "none") + 1) % 3];
      for (const other of heads) {
        turns.set(other, "none");
        if (other.querySelector("button")) other.setAttribute("aria-sort", "none");
      }
      turns.set(head, order);
      head.setAttribute("aria-sort", order);
      const sign = order === "descending" ? -1 : 1;
      const compare = (a, b) => {
        const [x, y] = [number(a.cells[index]), number(b.cells[index])];
        if (x === null && y === null) return sign * a.cells[index].textContent.localeCompare(b.cells[index].textContent);
        if (x === null || y === null) return x === null ? 1 : -1; // what is not there comes last either way
        return sign * (x - y);
      };
      body.append(...(order === "none" ? first : [...first].sort(compare)));
      const name = head.querySelector("button").textContent;
      page.announce(order === "none" ? "Rows in their first order." : `Rows sorted by ${name}, ${order}.`);
    }

    heads.forEach((head, index) => {
      head.scope = "col";
      const button = page.make("button", { type: "button" });
      button.append(...head.childNodes);
      const words = button.firstChild; // the arrow of a metric stays on its line
      if (words?.nodeType === Node.TEXT_NODE) words.data = words.data.replace(/ ([↑↓])/, "\u00a0$1");
      if (!button.textContent.trim()) button.append("Row");
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(head, index));
    });
  }

  // a wide table scrolls in a box of its own, which the keyboard reaches
  for (const table of document.querySelectorAll(".results table")) {
    const box = page.make("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "Results, scrolls sideways" });
    table.replaceWith(box);
    box.append(table);
  }
  document.querySelectorAll(".results table, table.sortable").forEach(sortable);
})();

"use strict";
/* The columns of the results that fit, and all on demand. Tables that sort by a press on a heading: best first, worst first, then the order of before. */
(() => {
  const { make } = page;
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
      const button = make("button", { type: "button" });
      button.append(...head.childNodes);
      const words = button.firstChild; // the arrow of a metric stays on its line
      if (words?.nodeType === Node.TEXT_NODE) words.data = words.data.replace(/ ([↑↓])/, "\u00a0$1");
      if (!button.textContent.trim()) button.append("Row");
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(head, index));
    });
  }

  const MAIN = 4; // columns of a data set that are shown however narrow the page

  /* Shows as many columns as fit: a table lists its main ones first. A button shows the others; the table then scrolls. */
  function fitting(table, box) {
    const heads = [...table.tHead.rows];
    const groups = heads.length > 1 ? [...heads.shift().cells].slice(1) : []; // one for each data set
    const count = groups[0]?.colSpan ?? heads[0].cells.length - 1;
    const [words, button] = [make("span"), make("button", { type: "button" })];
    const line = make("p", { class: "note columns" }, words, " ", button);
    let all = false;
    let wide = 0;

    function show(kept) {
      for (const row of heads.concat(...table.tBodies[0].rows)) {
        [...row.cells].slice(1).forEach((cell, index) => cell.classList.toggle("spare", index % count >= kept));
      }
      groups.forEach((group) => (group.colSpan = kept));
      line.hidden = kept === count && !all;
      const spare = count - kept;
      words.textContent = all ? `All ${count} columns.` : `The first ${kept} of ${count} columns.`;
      button.textContent = all ? "Show what fits" : `Show ${spare} more`;
      button.setAttribute("aria-expanded", String(all));
    }

    function fit() {
      let kept = count;
      show(kept);
      while (!all && kept > Math.min(MAIN, count) && table.scrollWidth > box.clientWidth) show(--kept);
    }

    button.addEventListener("click", () => {
      all = !all;
      fit();
    });
    box.after(line);
    new ResizeObserver(() => {
      if (box.clientWidth === wide) return;
      wide = box.clientWidth;
      fit();
    }).observe(box);
    fit();
  }

  // a wide table scrolls in a box of its own, which the keyboard reaches
  const boxes = new Map();
  for (const table of document.querySelectorAll(".results table")) {
    const box = make("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "Results, scrolls sideways" });
    table.replaceWith(box);
    box.append(table);
    boxes.set(table, box);
  }
  for (const table of document.querySelectorAll("#differences")) boxes.set(table, table.parentElement);
  document.querySelectorAll(".results table, table.sortable").forEach(sortable);
  boxes.forEach((box, table) => fitting(table, box));
})();

"use strict";
/* What the other scripts share: the page's data, and small helpers. All text enters as text, never as markup. */
const page = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  document.documentElement.classList.add("with-scripts");

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function bytes(key) {
    const text = atob(find(key).textContent);
    return Uint8Array.from(text, (character) => character.charCodeAt(0));
  }

  function fill(select, options) {
    const before = select.value;
    select.replaceChildren(...options.map(([value, label]) => make("option", { value }, label)));
    if (options.some(([value]) => value === before)) select.value = before;
  }

  /* Announces a change to screen readers. */
  function announce(text) {
    find("announce").textContent = text;
  }

  const example = (key) => data.examples.find((entry) => entry.key === key);
  const row = (key) => data.rows.find((entry) => entry.key === key);
  const reducedMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
  /* Where a reader starts: the last row that has a picture, and the first example for which it has one. */
  const pictured = (row) => data.examples.find((entry) => entry.cells[row.key]?.media.colour);
  const startRow = (data.rows.findLast(pictured) ?? data.rows.at(-1)).key;
  const start = pictured({ key: startRow }) ?? data.examples[0];
  return { data, start, startRow, find, make, bytes, fill, announce, example, row, reducedMotion };
})();

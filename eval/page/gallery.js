"use strict";
/* The gallery's switch between colour, normals and depth, and the comparison of two rows under a slider. */
(() => {
  const { data, find, fill, example } = page;

  find("shown-kind").addEventListener("change", (event) => {
    find("gallery").dataset.kind = event.target.value;
  });

  const TARGET = "the target";
  const [chosen, left, right, kind, range] = ["example", "left", "right", "kind", "range"].map((name) => find(`compare-${name}`));

  /* The picture's key: a row's of that kind, or what it should look like. */
  function source(name) {
    const shown = example(chosen.value);
    if (name === TARGET) return { colour: shown.media.truth, own: shown.media.input }[kind.value];
    return shown.cells[name]?.media[kind.value];
  }

  function label(name) {
    if (name !== TARGET) return page.row(name).label;
    return kind.value === "own" ? "input picture" : "truth";
  }

  function show() {
    const absent = [];
    for (const [select, image, caption] of [
      [left, find("compare-above"), find("compare-left-name")],
      [right, find("compare-below"), find("compare-right-name")],
    ]) {
      const key = source(select.value);
      caption.textContent = label(select.value);
      image.hidden = !key;
      if (key) image.src = find(key).src;
      else absent.push(label(select.value));
      image.alt = `${label(select.value)}, ${example(chosen.value).name}`;
    }
    find("compare-empty").hidden = absent.length === 0;
    find("compare-empty").textContent = `No such picture here: ${absent.join(", ")}`;
    place();
  }

  function place() {
    find("stack").style.setProperty("--at", `${range.value}%`);
    range.setAttribute("aria-valuetext", `${range.value} % ${label(left.value)}, ${100 - range.value} % ${label(right.value)}`);
  }

  function options() {
    const rows = data.rows.filter((row) => row.key in example(chosen.value).cells).map((row) => [row.key, row.label]);
    for (const select of [left, right]) fill(select, [...rows, [TARGET, "truth or input"]]);
  }

  fill(chosen, data.examples.map((entry) => [entry.key, entry.name]));
  chosen.value = page.start.key;
  options();
  left.value = page.startRow;
  if (left.selectedIndex < 0) left.selectedIndex = 0;
  right.selectedIndex = page.start.media.truth ? right.options.length - 1 : 0;
  chosen.addEventListener("change", () => {
    options();
    show();
  });
  for (const select of [left, right, kind]) select.addEventListener("change", show);
  range.addEventListener("input", place);

  function drag(event) {
    const box = find("stack").getBoundingClientRect();
    range.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    place();
  }
  find("stack").addEventListener("pointerdown", (event) => {
    find("stack").setPointerCapture(event.pointerId);
    drag(event);
  });
  find("stack").addEventListener("pointermove", (event) => {
    if (find("stack").hasPointerCapture(event.pointerId)) drag(event);
  });
  show();
})();

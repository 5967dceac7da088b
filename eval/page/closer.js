"use strict";
/* One result in full: mesh, video, pictures, scores, what ran, losses. */
(() => {
  const { data, find, make, fill, example } = page;
  const [chosen, row] = [find("closer-example"), find("closer-row")];
  const links = { film: null, mesh: null };
  const SVG = "http://www.w3.org/2000/svg";
  const [WIDTH, HEIGHT] = [240, 80];

  const whyMissing = (cell, kind) => (cell.leftOut.includes(kind) ? "Left out to keep this page small." : "None was made.");

  function link(kind, content, type) {
    if (links[kind]) URL.revokeObjectURL(links[kind]);
    links[kind] = content && URL.createObjectURL(new Blob([content], { type }));
    return links[kind];
  }

  async function showMesh(cell, name) {
    const [canvas, none, save] = [find("mesh"), find("mesh-none"), find("mesh-save")];
    const key = cell.media.mesh;
    canvas.hidden = !key;
    none.hidden = Boolean(key);
    for (const id of ["mesh-help", "mesh-surface"]) find(id).hidden = !key;
    save.hidden = true;
    if (!key) {
      viewer.forget();
      none.textContent = cell.noMesh ? `No mesh: ${cell.noMesh}.` : whyMissing(cell, "mesh");
      return;
    }
    try {
      const glb = await viewer.show(key, name);
      if (!glb) return;
      save.href = link("mesh", glb, "model/gltf-binary");
      save.download = `${name.replace(/[^\w]+/g, "-").replace(/^-|-$/g, "")}.glb`;
      save.hidden = false;
    } catch (problem) {
      canvas.hidden = true;
      none.hidden = false;
      none.textContent = `The mesh cannot be shown here: ${problem.message}`;
    }
  }

  function showFilm(cell, name) {
    const [film, none] = [find("film"), find("film-none")];
    const key = cell.media.film;
    film.hidden = !key;
    find("film-help").hidden = !key;
    none.hidden = Boolean(key);
    none.textContent = key ? "" : whyMissing(cell, "film");
    film.removeAttribute("src");
    if (!key) return;
    film.src = link("film", page.bytes(key), "video/mp4");
    film.setAttribute("aria-label", `Turntable of ${name}`);
    film.defaultPlaybackRate = film.playbackRate = 0.5;
  }

  function showPictures(cell, name) {
    const kinds = [["colour", "unseen side"], ["normal", "normals"], ["depth", "depth"]];
    find("trio").replaceChildren(
      ...kinds
        .filter(([kind]) => cell.media[kind])
        .map(([kind, label]) =>
          make("figure", {}, make("img", { src: find(cell.media[kind]).src, alt: `${name}, ${label}` }), make("figcaption", {}, label)),
        ),
    );
  }

  const short = (value) => (Math.abs(value) >= 0.01 && Math.abs(value) < 1000 ? value.toPrecision(3) : value.toExponential(1));

  /* A loss over the steps. Logarithmic where it is always positive: losses fall by powers of ten. */
  function chart(name, steps, values) {
    const points = steps.map((step, index) => [step, values[index]]).filter(([, value]) => value !== null);
    const title = make("h4", {}, name.replaceAll("_", " "));
    if (points.length === 0) return make("div", { class: "chart" }, title, make("p", {}, "never computed"));
    const logarithmic = points.every(([, value]) => value > 0);
    const scale = (value) => (logarithmic ? Math.log10(value) : value);
    const heights = points.map(([, value]) => scale(value));
    const [low, high] = [Math.min(...heights), Math.max(...heights)];
    const last = Math.max(steps.at(-1), 1);
    const path = points
      .map(([step], index) => {
        const y = HEIGHT - 4 - ((heights[index] - low) / (high - low || 1)) * (HEIGHT - 8);
        return `${index ? "L" : "M"}${((step / last) * WIDTH).toFixed(1)} ${y.toFixed(1)}`;
      })
      .join("");
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    const [first, final] = [points[0][1], points.at(-1)[1]];
    svg.setAttribute("aria-label", `${name}: from ${short(first)} at step ${points[0][0]} to ${short(final)} at step ${points.at(-1)[0]}`);
    const ground = document.createElementNS(SVG, "line");
    for (const [key, value] of Object.entries({ x1: 0, x2: WIDTH, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 })) ground.setAttribute(key, value);
    const line = document.createElementNS(SVG, "path");
    line.setAttribute("d", path);
    svg.append(ground, line);
    const span = [Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))];
    const words = `${short(first)} → ${short(final)}; ${short(span[0])} to ${short(span[1])}${logarithmic ? "; log axis" : ""}`;
    return make("div", { class: "chart" }, title, svg, make("p", {}, words));
  }

  function showLosses(cell) {
    const losses = cell.losses;
    find("charts").replaceChildren(...(losses ? losses.series.map(([name, values]) => chart(name, losses.steps, values)) : []));
    const many = losses && losses.bin > 1 ? ` Each point is the mean of ${losses.bin} steps.` : "";
    find("losses-help").textContent = losses && losses.series.length
      ? `Unweighted losses, gradient norms and scores of the reference view over ${losses.total} steps. Below each: first → last, lowest to highest.${many}`
      : "No losses: nothing was optimised here, or the record is missing.";
  }

  function showProgress(cell, name) {
    const steps = Object.keys(cell.media).flatMap((kind) => /^progress (\d+)$/.exec(kind)?.[1] ?? []).map(Number);
    find("progress-part").hidden = steps.length === 0;
    find("progress").replaceChildren(
      ...steps.sort((a, b) => a - b).map((step) => {
        const after = `after ${step} steps`;
        const src = `data:image/webp;base64,${find(cell.media[`progress ${step}`]).textContent}`;
        return make("figure", {}, make("img", { src, alt: `${name}, ${after}` }), make("figcaption", {}, after));
      }),
    );
  }

  const line = (name, value) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value));

  function show() {
    const cell = example(chosen.value).cells[row.value];
    const name = `${example(chosen.value).name}, ${page.row(row.value).label}`;
    const state = find("closer-state");
    state.hidden = cell.status === "ok";
    state.textContent = `State of this result: ${cell.status}. ${cell.reason}`;
    find("closer-scores").replaceChildren(...cell.scores.map(([label, value]) => line(label, value)));
    find("closer-flagged").hidden = cell.flags.length === 0;
    find("closer-flags").replaceChildren(
      ...cell.flags.map((flag) => {
        const shown = line(flag.name, `${flag.state}${flag.number ? ` (${flag.number})` : ""}`);
        shown.title = flag.about;
        if (flag.state === "raised") shown.lastChild.className = "raised";
        return shown;
      }),
    );
    find("closer-run").replaceChildren(...(cell.run.length ? cell.run : [["record", "missing"]]).map(([label, value]) => line(label, value)));
    showPictures(cell, name);
    showFilm(cell, name);
    showLosses(cell);
    showProgress(cell, name);
    return showMesh(cell, name);
  }

  function rows() {
    fill(row, data.rows.filter((entry) => entry.key in example(chosen.value).cells).map((entry) => [entry.key, entry.label]));
  }

  fill(chosen, data.examples.map((entry) => [entry.key, entry.name]));
  chosen.value = page.start.key;
  rows();
  row.value = page.startRow;
  if (row.selectedIndex < 0) row.selectedIndex = 0;
  chosen.addEventListener("change", () => {
    rows();
    show();
  });
  row.addEventListener("change", show);

  for (const button of document.querySelectorAll(".pick")) {
    button.addEventListener("click", () => {
      chosen.value = button.dataset.example;
      rows();
      row.value = button.dataset.row;
      show();
      find("closer").scrollIntoView({ behavior: page.reducedMotion() ? "auto" : "smooth" });
      row.focus({ preventScroll: true });
      page.announce(`Showing ${example(chosen.value).name}, ${page.row(row.value).label}.`);
    });
  }

  // at once: a section that grew when it came near would push away what a link aims at
  show();
})();

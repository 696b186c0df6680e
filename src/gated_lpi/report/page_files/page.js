"use strict";
// Draws the page's figures, anew where the page becomes narrow or is printed, and walks through their points by keys.
(function () {
  let lists = [];
  const drawn = JSON.parse(document.getElementById("figure-data").textContent, (key, value) => {
    if (key === "lists") lists = value; // which come first
    return value && value.shared >= 0 ? lists[value.shared] : value;
  });
  for (const { data } of Object.values(drawn.figures)) {
    for (const trace of data.filter(({ type }) => type === "heatmap")) {
      const { rows, columns } = trace.meta;
      trace.customdata = rows.map((row) => columns.map((column) => `${row}, ${column}`));
    }
  }
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 640px)");
  const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
  const PAPER = 690; // pixels that a page of A4 has between its margins
  let printing = false;

  function draw(id) {
    const figure = drawn.figures[id];
    const stacked = narrow.matches && !printing && figure.narrow;
    const layout = { ...(stacked ? figure.narrow.layout : figure.layout) };
    layout.template = drawn.templates[scheme.matches && !printing ? "dark" : "light"];
    if (narrow.matches && !printing) layout.margin = { ...layout.margin, l: 48, r: Math.min(layout.margin.r, 60) };
    if (printing) layout.width = PAPER;
    else layout.autosize = true;
    const data = stacked
      ? figure.data.map((trace, i) => (figure.narrow.bars[i] ? { ...trace, colorbar: figure.narrow.bars[i] } : trace))
      : figure.data;
    const place = document.getElementById(id);
    place.style.minHeight = `${layout.height}px`;
    return Plotly.react(place, structuredClone(data), structuredClone(layout), options);
  }

  const all = () => Object.keys(drawn.figures).forEach(draw);

  // The lines of a figure that have points to walk through, and the points of each that have a value.
  function lines(place) {
    return place.data
      .map((trace, curve) => ({ trace, curve }))
      .filter(({ trace }) => trace.hoverinfo !== "skip" && (trace.text || trace.customdata))
      .map(({ trace, curve }) => {
        const points = [];
        if (trace.type === "heatmap") {
          trace.z.forEach((row, y) => row.forEach((value, x) => value !== null && points.push([y, x])));
        } else trace.y.forEach((value, x) => value !== null && points.push(x));
        return { trace, curve, points };
      })
      .filter(({ points }) => points.length);
  }

  function said({ trace }, point) {
    const map = trace.type === "heatmap";
    const value = map ? trace.z[point[0]][point[1]] : trace.y[point];
    const text = map ? trace.customdata[point[0]][point[1]] : trace.text[point];
    const percent = /:\.3~p/.test(trace.hovertemplate);
    const element = document.createElement("textarea");
    element.innerHTML = text;
    return `${element.value}: ${percent ? `${Number((100 * value).toPrecision(3))}%` : Number(value.toPrecision(4))}`;
  }

  function walk(event) {
    const place = event.currentTarget;
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const found = lines(place);
    if (!found.length) return;
    const at = place.at;
    const bounded = (value, count) => Math.min(Math.max(value, 0), count - 1);
    const line = at ? bounded(at.line + step[0], found.length) : 0;
    const point = at ? bounded(at.point + step[1], found[line].points.length) : 0;
    place.at = { line, point };
    const { trace, curve, points } = found[line];
    const axis = (trace.xaxis || "x") + (trace.yaxis || "y");
    Plotly.Fx.hover(place, [{ curveNumber: curve, pointNumber: points[point] }], axis);
    document.getElementById("spoken").textContent = said(found[line], points[point]);
  }

  all();
  for (const id of Object.keys(drawn.figures)) {
    const place = document.getElementById(id);
    place.addEventListener("keydown", walk);
    place.addEventListener("blur", () => Plotly.Fx.unhover(place));
  }
  scheme.addEventListener("change", all);
  narrow.addEventListener("change", all);
  window.addEventListener("beforeprint", () => {
    printing = true;
    for (const part of document.querySelectorAll("details")) {
      part.dataset.open = part.open ? "yes" : "no";
      part.open = true;
    }
    all();
  });
  window.addEventListener("afterprint", () => {
    printing = false;
    for (const part of document.querySelectorAll("details")) part.open = part.dataset.open === "yes";
    all();
  });
})();

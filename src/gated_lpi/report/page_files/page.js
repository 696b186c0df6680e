"use strict";
// Draws the page's figures, anew where the page becomes narrow or is printed; their points are walked through by keys.
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
  const options = {
    responsive: true,
    displaylogo: false,
    showSendToCloud: false, // a button that sends the chart's data to Plotly
    modeBarButtonsToRemove: ["select2d", "lasso2d"],
  };
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

  all();
  for (const id of Object.keys(drawn.figures)) walkable(document.getElementById(id));
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

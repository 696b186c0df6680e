"use strict";
// Draws the page's charts, leads from their points, says what is being made, and makes tables usable by keys.
(function () {
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 640px)");
  const part = (id) => {
    const element = document.getElementById(id);
    return element === null ? {} : JSON.parse(element.textContent);
  };

  function draw() {
    if (typeof Plotly === "undefined") return;
    const figures = part("figure-data");
    const colours = part("figure-colours");
    const template = () => colours[scheme.matches ? "dark" : "light"];
    const options = {
      responsive: true,
      displaylogo: false,
      showSendToCloud: false, // a button that sends the chart's data to Plotly
      modeBarButtonsToRemove: ["select2d", "lasso2d"],
    };
    for (const place of document.querySelectorAll("[data-figure]")) {
      const figure = figures[place.dataset.figure];
      const layout = { ...figure.layout, template: template() };
      Plotly.newPlot(place, figure.data, narrow.matches ? stacked(layout) : layout, options);
      place.on("plotly_click", (event) => {
        const to = figure.links[event.points[0].text] || figure.links[event.points[0].customdata];
        if (to) window.location.assign(to);
      });
      walkable(place, (text) => figure.links[text]);
      if (Object.keys(figure.links).length) place.classList.add("leads");
    }
    scheme.addEventListener("change", () => {
      for (const place of document.querySelectorAll("[data-figure]")) Plotly.relayout(place, { template: template() });
    });
  }

  // On a narrow screen panels stand below each other, each as high as before.
  function stacked(layout) {
    const axes = Object.keys(layout).filter((key) => /^xaxis\d*$/.test(key));
    const columns = new Set(axes.map((key) => layout[key].domain[0])).size;
    const titles = layout.annotations || [];
    if (columns < 2) return { ...layout, margin: { ...layout.margin, l: 50, r: 10 } };
    const count = axes.length;
    const changed = { ...layout, height: 300 * count + 90, margin: { ...layout.margin, l: 50, r: 10 } };
    const gap = count > 1 ? 0.28 / count : 0;
    const high = (1 - gap * (count - 1)) / count;
    const top = (index) => 1 - index * (high + gap);
    axes.forEach((key, index) => {
      const vertical = key.replace("x", "y");
      changed[key] = { ...layout[key], domain: [0, 1] };
      changed[vertical] = { ...layout[vertical], domain: [Math.max(0, top(index) - high), top(index)] };
    });
    changed.annotations = titles.map((title, index) => ({ ...title, x: 0.5, y: top(index) }));
    changed.legend = { ...layout.legend, y: 1 + 40 / changed.height };
    return changed;
  }

  function watch() {
    const status = document.getElementById("status");
    const { waits: waiting, version: shown } = document.body.dataset;
    const waits = waiting === "yes";
    if (status.hidden && !waits) return;
    const look = async () => {
      try {
        const { progress, version } = await (await fetch("/status.json")).json();
        if (progress === null) {
          const ready = waits && String(version) !== shown;
          status.textContent = ready ? "Ready: the page is loaded again." : "";
          status.hidden = !ready;
          if (ready) window.location.reload();
          else if (waits) setTimeout(look, 1500);
          return;
        }
        const far = progress.total ? `, ${progress.done} of ${progress.total}` : "";
        status.textContent = `Being made: ${progress.words}${far}.`;
        status.hidden = false;
      } catch {
        status.textContent = "The explorer does not answer; was it ended?";
      }
      setTimeout(look, 1500);
    };
    setTimeout(look, 700);
  }

  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input, select, textarea");
    if (typing) return;
    if (event.key === "/") {
      event.preventDefault();
      document.getElementById("find").focus();
    } else if (event.key === "[" || event.key === "]") {
      const link = document.querySelector(`main a[rel="${event.key === "[" ? "prev" : "next"}"]`);
      if (link) link.click();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const row = event.target.closest("tbody tr");
      if (!row || event.target.tagName !== "A") return;
      const other = event.key === "ArrowDown" ? row.nextElementSibling : row.previousElementSibling;
      const link = other && other.querySelector("a");
      if (link) {
        event.preventDefault();
        link.focus();
      }
    }
  }

  // Empty fields are left out of addresses.
  function trim(event) {
    for (const field of event.target.elements) {
      if (field.name && field.value === "") field.disabled = true;
    }
    setTimeout(() => {
      for (const field of event.target.elements) field.disabled = false;
    }, 0);
  }

  document.addEventListener("keydown", keys);
  for (const form of document.forms) form.addEventListener("submit", trim);
  window.addEventListener("DOMContentLoaded", () => {
    draw();
    watch();
  });
})();

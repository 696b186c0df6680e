"use strict";
// Walks through the points of a chart by keys: left and right along a line, up and down to others. Each is shown as if
// the mouse were there and said in the page's element "spoken"; Enter follows where `to`, given a point's text, leads.
function walkable(place, to = () => undefined) {
  let at = null;

  // The lines that have points to walk through, and the points of each that have a value.
  function lines() {
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

  // What is at a point of a map, [row, column], or of another trace.
  const taken = (values, point) => (Array.isArray(point) ? values[point[0]][point[1]] : values[point]);
  const text = (trace, point) => taken(trace.type === "heatmap" ? trace.customdata : trace.text, point);

  function said(trace, point) {
    const value = taken(trace.type === "heatmap" ? trace.z : trace.y, point);
    const percent = /:\.3~p/.test(trace.hovertemplate);
    const element = document.createElement("textarea");
    element.innerHTML = text(trace, point);
    return `${element.value}: ${percent ? `${Number((100 * value).toPrecision(3))}%` : Number(value.toPrecision(4))}`;
  }

  function walk(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const found = lines();
    if (event.key === "Enter" && at && event.target === place) {
      const address = to(text(found[at.line].trace, found[at.line].points[at.point]));
      if (address) window.location.assign(address);
      return;
    }
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    if (!found.length) return;
    const bounded = (value, count) => Math.min(Math.max(value, 0), count - 1);
    const line = at ? bounded(at.line + step[0], found.length) : 0;
    const point = at ? bounded(at.point + step[1], found[line].points.length) : 0;
    at = { line, point };
    const { trace, curve, points } = found[line];
    const axis = (trace.xaxis || "x") + (trace.yaxis || "y");
    Plotly.Fx.hover(place, [{ curveNumber: curve, pointNumber: points[point] }], axis);
    document.getElementById("spoken").textContent = said(trace, points[point]);
  }

  place.addEventListener("keydown", walk);
  place.addEventListener("blur", () => Plotly.Fx.unhover(place));
}

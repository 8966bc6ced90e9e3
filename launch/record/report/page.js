"use strict";
(() => {
  const { axes, figures } = JSON.parse(document.getElementById("data").textContent);
  const axisTitles = {
    step: "step",
    tokens: "tokens generated so far",
    seconds: "seconds since the first step began",
  };
  const hidden = new Set();
  let axis = "step";

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Where a run's line, or marks with places of their own, stand on the chosen axis.
  const place = (meta) => (meta.x === "step" ? axes[meta.run] : meta.x)[axis];

  function dress(layout) {
    const ink = colour("--soft"), grid = colour("--grid"), line = colour("--line");
    layout.font = { ...layout.font, color: ink, family: getComputedStyle(document.body).fontFamily };
    for (const name of ["xaxis", "yaxis"]) {
      layout[name] = { ...layout[name], gridcolor: grid, linecolor: line };
    }
    layout.hoverlabel = {
      bgcolor: colour("--panel"), bordercolor: line, font: { color: colour("--ink") },
    };
    for (const slider of layout.sliders || []) {
      slider.bgcolor = grid;
      slider.bordercolor = line;
      slider.tickcolor = line;
      // Its labels would run into each other; the one in force stands above it.
      slider.font = { ...slider.font, color: "rgba(0, 0, 0, 0)" };
      slider.currentvalue = { ...slider.currentvalue, font: { color: ink } };
    }
  }

  function prepare(figure) {
    for (const trace of figure.data) {
      const meta = trace.meta || {};
      if (meta.x) trace.x = place(meta);
      if (meta.run !== undefined) trace.visible = !hidden.has(meta.run);
    }
    if (figure.data.some((trace) => (trace.meta || {}).x)) {
      figure.layout.xaxis = {
        ...figure.layout.xaxis, title: { text: axisTitles[axis] }, autorange: true,
      };
    }
    const marks = (figure.layout.meta || {}).marks || [];
    figure.layout.shapes = marks.filter((mark) => !hidden.has(mark.run)).map((mark) => {
      const x = typeof mark.x === "number" ? mark.x : mark.x[axis];
      const [y0, y1] = mark.y || [0, 1];
      return {
        type: "line", x0: x, x1: x, y0, y1, yref: mark.y ? "y" : "paper", layer: "below",
        line: { color: mark.colour, width: 1.5, dash: "dot" },
      };
    });
    dress(figure.layout);
  }

  const plots = Object.entries(figures).map(([key, figure]) => ({
    element: document.getElementById(`plot-${key}`), figure,
  }));
  const config = {
    responsive: true, displayModeBar: false,
  };

  function draw(changed) {
    for (const { element, figure } of plots) {
      if (!changed(figure)) continue;
      prepare(figure);
      Plotly.react(element, figure.data, figure.layout, config);
    }
  }

  const uses = (test) => (figure) => figure.data.some((trace) => test(trace.meta || {}));

  for (const button of document.querySelectorAll("button[data-axis]")) {
    button.addEventListener("click", () => {
      axis = button.dataset.axis;
      for (const other of document.querySelectorAll("button[data-axis]")) {
        other.setAttribute("aria-pressed", String(other === button));
      }
      draw(uses((meta) => meta.x));
    });
  }
  for (const button of document.querySelectorAll("button[data-run]")) {
    button.addEventListener("click", () => {
      const run = Number(button.dataset.run);
      if (!hidden.delete(run)) hidden.add(run);
      button.setAttribute("aria-pressed", String(!hidden.has(run)));
      draw(uses((meta) => meta.run === run));
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(() => true));
  draw(() => true);
})();

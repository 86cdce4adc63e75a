"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const colours = ["#2f6fd0", "#d9562b", "#2c9c5a", "#9a4fc4", "#b08a00", "#c43d74", "#0e97a7", "#7a6a58"];
  const place = document.getElementById("charts");
  const smoothing = document.getElementById("smoothing");
  const logarithmic = document.getElementById("log");
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  let plots = [];

  // The mean of what came before, weighted less the longer ago; without the pull of where it began.
  const smoothed = (values, weight) => {
    let sum = 0, total = 0;
    return values.map((value) => {
      sum = sum * weight + value * (1 - weight);
      total = total * weight + (1 - weight);
      return sum / total;
    });
  };

  const joined = (chart) => {
    const weight = Number(smoothing.value);
    const tables = chart.curves.map((c) => [c.x, c.dashed || !weight ? c.y : smoothed(c.y, weight)]);
    return tables.length ? uPlot.join(tables) : [[]];
  };

  const drawMarks = (plot) => {
    const context = plot.ctx, box = plot.bbox;
    context.save();
    for (const mark of data.marks) {
      const x = plot.valToPos(mark.x, "x", true);
      if (!(x >= box.left && x <= box.left + box.width)) continue;
      context.strokeStyle = mark.kind === "resume" ? "#d03030" : style("--faint");
      context.globalAlpha = 0.6;
      context.setLineDash(mark.kind === "resume" ? [] : [3, 3]);
      context.beginPath();
      context.moveTo(x, box.top);
      context.lineTo(x, box.top + box.height);
      context.stroke();
    }
    context.restore();
  };

  const number = (value) => (value == null ? "" : Number(value.toPrecision(6)).toString());

  const draw = () => {
    for (const plot of plots) plot.destroy();
    place.replaceChildren();
    plots = data.charts.map((chart) => {
      const card = document.createElement("div");
      card.className = "chart";
      place.append(card);
      for (const remark of chart.remarks) {
        const line = document.createElement("div");
        line.className = "hint";
        line.textContent = remark;
        card.append(line);
      }
      const axis = { stroke: style("--faint"), grid: { stroke: style("--line"), width: 1 }, size: 60 };
      const above = chart.curves.every((c) => c.y.every((value) => value > 0));
      const plot = new uPlot({
        title: chart.title,
        width: Math.max(200, card.clientWidth - 12),
        height: 260,
        scales: { x: { time: false }, y: { distr: chart.losses && logarithmic.checked && above ? 3 : 1 } },
        axes: [{ ...axis, size: 40 }, { ...axis, values: (_, ticks) => ticks.map(number) }],
        series: [
          { label: "iteration" },
          ...chart.curves.map((c, i) => ({
            label: c.label, stroke: colours[i % colours.length], width: 1.5, spanGaps: true,
            dash: c.dashed ? [6, 4] : undefined, value: (_, value) => number(value),
            points: { show: c.x.length < 60 },
          })),
        ],
        hooks: { draw: [drawMarks] },
      }, joined(chart), card);
      return plot;
    });
    window.reportCharts = plots;
  };

  smoothing.addEventListener("input", () => {
    plots.forEach((plot, i) => plot.setData(joined(data.charts[i])));
  });
  logarithmic.addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let width = 0;
  new ResizeObserver(() => {
    if (place.clientWidth === width) return;
    width = place.clientWidth;
    plots.forEach((plot) => {
      plot.setSize({ width: Math.max(200, plot.root.parentElement.clientWidth - 12), height: 260 });
    });
  }).observe(place);
  draw();

  const root = document.documentElement.style;
  const zoom = document.getElementById("zoom");
  if (zoom) zoom.addEventListener("input", () => root.setProperty("--zoom", zoom.value));
  for (const figure of document.querySelectorAll("figure")) {
    const slider = figure.querySelector("img-comparison-slider");
    const pictures = JSON.parse(figure.dataset.pictures);
    for (const choice of figure.querySelectorAll("select")) {
      const show = () => {
        const image = slider.querySelector(`img[slot=${choice.dataset.slot}]`);
        image.src = pictures[choice.selectedIndex];
        image.alt = choice.value;
      };
      choice.addEventListener("change", show);
      show();
    }
    slider.addEventListener("dblclick", (event) => {
      const box = slider.getBoundingClientRect();
      root.setProperty("--left", `${100 * (event.clientX - box.left) / box.width}%`);
      root.setProperty("--top", `${100 * (event.clientY - box.top) / box.height}%`);
    });
  }
})();

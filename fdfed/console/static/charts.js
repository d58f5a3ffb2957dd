// Line charts over rounds, drawn by uPlot in the page's colours.

const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [4, 2], [12, 4]];
const HEIGHT = 230;
const drawn = new Map();

const colour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * Draws or updates the chart in `figure` (with an h3 and a div.plot).
 * series: [{ name, values }], values in the order of `rounds`; null is a gap. empty: what is said
 * while there is none.
 */
export function lineChart(figure, { rounds, series, digits = 3, empty = "Nothing measured yet." }) {
  const place = figure.querySelector(".plot");
  const title = figure.querySelector("h3").textContent;
  const shown = series.filter(({ values }) => values.some((value) => value !== null));
  if (rounds.length === 0 || shown.length === 0) {
    drop(figure);
    place.removeAttribute("role");
    place.removeAttribute("aria-label");
    place.replaceChildren(Object.assign(document.createElement("p"), {
      className: "empty", textContent: empty,
    }));
    return;
  }
  const last = shown.map(({ name, values }) => {
    const value = values.findLast((v) => v !== null);
    return `${name} ${Number(value.toPrecision(digits))}`;
  });
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", `${title}, up to round ${rounds.at(-1)}: ${last.join(", ")}`);
  const data = [rounds, ...shown.map(({ values }) => values)];
  const theme = document.documentElement.dataset.theme;
  const shape = JSON.stringify([theme, shown.map(({ name }) => name)]);
  const old = drawn.get(figure);
  if (old?.shape === shape) {
    old.plot.setData(data);
    return;
  }
  drop(figure);
  place.replaceChildren();
  const plot = new uPlot(options(shown, place.clientWidth, digits), data, place);
  const observer = new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: HEIGHT }));
  observer.observe(place);
  drawn.set(figure, { plot, shape, observer });
}

function drop(figure) {
  const old = drawn.get(figure);
  if (!old) return;
  old.observer.disconnect();
  old.plot.destroy();
  drawn.delete(figure);
}

function showNewest(plot) {
  if (plot.cursor.idx == null) plot.setLegend({ idx: plot.data[0].length - 1 });
}

function shortest(value, digits) {
  return String(Number(value.toPrecision(digits)));
}

// As uPlot has it, but that of a line that stays at 0 it would make an axis up to 100.
function range(_, low, high) {
  if (low == null) return [null, null];
  return low === 0 && high === 0 ? [0, 1] : uPlot.rangeNum(low, high, 0.1, true);
}

function options(series, width, digits) {
  const axis = {
    stroke: colour("--ink"), font: "12px system-ui, sans-serif",
    grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--faint"), width: 1 },
  };
  const show = (_, value) => (value == null ? "–" : shortest(value, digits));
  return {
    width, height: HEIGHT,
    scales: { x: { time: false }, y: { range } },
    legend: { markers: { width: 1.5, fill: () => "transparent", dash: (_, i) => (i > 6 ? "dashed" : "solid") } },
    // Where no point is pointed at, the legend shows the newest.
    hooks: { setCursor: [showNewest], setData: [showNewest], ready: [showNewest] },
    axes: [
      // A round is a whole number.
      { ...axis, grid: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] },
      // uPlot's own labels have three decimals: α of 0.001 and 0.0015 would be the same.
      { ...axis, size: 58, values: (_, ticks) => ticks.map((tick) => shortest(tick, 6)) },
    ],
    series: [
      { label: "round" },
      ...series.map(({ name }, index) => ({
        label: name, stroke: colour(`--s${index % 6}`), width: 2, value: show, spanGaps: true,
        dash: DASHES[Math.floor(index / 6) % DASHES.length],
        points: { show: series[index].values.length < 40, size: 5 },
      })),
    ],
  };
}

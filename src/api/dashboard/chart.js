// The candlestick chart, by plotly.js.

import { decimals, moment, pairName, spelled } from "/assets/words.js";

let loading = null;
/// plotly.js, fetched when the first chart is drawn: it is far larger than all the rest.
function plotly() {
  loading ??= new Promise((loaded, failed) => {
    const script = document.createElement("script");
    script.src = "/assets/plotly.js";
    script.onload = () => loaded(globalThis.Plotly);
    script.onerror = () => {
      loading = null;
      script.remove();
      failed(new Error("the chart's script did not come"));
    };
    document.head.append(script);
  });
  return loading;
}

/// A time as plotly takes it: it knows no zones, so UTC is what it shows.
const when = (epoch) => new Date(epoch * 1000).toISOString().slice(0, 19);

/// The page's colours, which follow the system's scheme.
function colours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["card", "ink", "muted", "line", "up", "down", "missing", "lost", "quiet"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function candles(bars, colour, rest) {
  const column = (name) => bars.map((bar) => bar[name]);
  return {
    type: "candlestick",
    x: bars.map((bar) => when(bar.time)),
    open: column("open"), high: column("high"), low: column("low"), close: column("close"),
    increasing: { line: { color: colour.up, width: 1.2 }, fillcolor: colour.card },
    decreasing: { line: { color: colour.down, width: 1.2 }, fillcolor: colour.down },
    ...rest,
  };
}

/// The stretches in which the market is closed, which are left out of the axis. Pure.
export function breaks(runs, step) {
  const closed = [];
  for (const run of runs) {
    if (run.state !== "closed") continue;
    const last = closed.at(-1);
    if (last && last[1] === run.from) last[1] = run.to;
    else closed.push([run.from, run.to]);
  }
  // A candle stands around its beginning, so half of the one before and of the one after stay.
  return closed.filter(([from, to]) => to - from > 2 * step);
}

/// What the chart says to who cannot see it. Pure.
export function inWords(pair, timeframe, bars, holes) {
  if (!bars.length) return `${pairName(pair)}, ${timeframe} minutes: no bars`;
  const [first, last] = [bars[0], bars.at(-1)];
  const high = Math.max(...bars.map((bar) => bar.high));
  const low = Math.min(...bars.map((bar) => bar.low));
  const price = (value) => value.toFixed(decimals(pair));
  const lacks = holes.length ? `; ${holes.length} gaps, listed below` : "";
  return `${pairName(pair)}, ${bars.length} bars of ${timeframe} minutes from ${moment(first.time)} to ${moment(last.time)} UTC: `
    + `between ${price(low)} and ${price(high)}, last close ${price(last.close)}${lacks}`;
}

/// Draws bars, the forming candle, and what is known of the time between them.
export async function draw(element, { pair, timeframe, bars, forming, runs, view }) {
  const Plotly = await plotly();
  const colour = colours();
  const step = Number(timeframe) * 60;
  const holes = runs.filter((run) => ["missing", "lost", "quiet"].includes(run.state));
  const traces = [candles(bars, colour, { name: pairName(pair) })];
  if (forming) traces.push(candles([forming], colour, { name: "forming", opacity: 0.45 }));
  const span = (bars.at(-1).time - bars[0].time) || step;
  const shapes = holes.filter((run) => run.to > bars[0].time).map((run) => ({
    type: "rect", xref: "x", yref: "paper", layer: "below", y0: 0, y1: 1,
    x0: when(Math.max(run.from, bars[0].time) - step / 2), x1: when(run.to - step / 2),
    fillcolor: colour[run.state], opacity: 0.22, line: { color: colour[run.state], width: 1, dash: "dot" },
    label: (run.to - run.from) / span > 0.08 ? { text: spelled(run.state), textposition: "top center", font: { color: colour.ink, size: 12 } } : undefined,
  }));
  const axis = { gridcolor: colour.line, linecolor: colour.line, tickfont: { color: colour.muted }, zeroline: false };
  const touch = matchMedia("(pointer: coarse)").matches;
  const layout = {
    paper_bgcolor: colour.card, plot_bgcolor: colour.card, showlegend: false, dragmode: touch ? false : "pan",
    font: { family: "system-ui, sans-serif", size: 12, color: colour.ink },
    margin: { l: 8, r: 64, t: 8, b: 34 }, autosize: true, uirevision: view, shapes, hovermode: "x",
    hoverlabel: { bgcolor: colour.card, bordercolor: colour.muted, font: { color: colour.ink } },
    xaxis: { ...axis, type: "date", rangeslider: { visible: false }, rangebreaks: breaks(runs, step).map(([from, to]) => ({ bounds: [when(from + step / 2), when(to - step / 2)] })), nticks: Math.max(3, Math.floor(element.clientWidth / 110)), fixedrange: touch },
    yaxis: { ...axis, side: "right", tickformat: `.${decimals(pair)}f`, fixedrange: touch, nticks: 7 },
  };
  await Plotly.react(element, traces, layout, { displayModeBar: false, responsive: true, doubleClick: "reset" });
  element.dataset.bars = bars.length;
  element.dataset.last = bars.at(-1).time;
  element.dataset.forming = forming ? forming.time : "";
  element.setAttribute("aria-label", inWords(pair, timeframe, bars, holes));
}

/// Takes the chart away.
export function clear(element) {
  if (element.dataset.bars && globalThis.Plotly) globalThis.Plotly.purge(element);
  for (const name of ["bars", "last", "forming"]) delete element.dataset[name];
  element.replaceChildren();
}

// Coverage: what is known of a pair's buckets, drawn as a strip.

import { counted, spelled } from "/assets/words.js";

/// Width of a strip in its own units.
const WIDTH = 1000;
const HEIGHT = 20;
/// Seconds of a bucket.
const BUCKET = 300;
/// A hole that is too narrow to be seen is drawn this wide.
const WIDTH_MIN = 9;

/// Every state, in the order in which it is drawn, and what it means. A state's height tells it apart where colours do not.
export const STATES = [
  { name: "closed", height: 2, means: "the market is closed" },
  { name: "quiet", height: 9, means: "no price came, and that is proved" },
  { name: "stored", height: 18, means: "a settled bar" },
  { name: "missing", height: 20, means: "will be healed" },
  { name: "lost", height: 20, means: "cannot be had any more" },
];

/// Where each run lies on a strip from one time to another. Pure.
export function segments(runs, from, to) {
  const place = (at) => ((Math.min(Math.max(at, from), to) - from) / (to - from)) * WIDTH;
  const order = (run) => STATES.findIndex((state) => state.name === run.state);
  const drawn = [];
  for (const run of [...runs].sort((a, b) => order(a) - order(b))) {
    const state = STATES.find((state) => state.name === run.state);
    const [x, end] = [place(run.from), place(run.to)];
    if (!state || end <= x) continue;
    const isHole = run.state === "missing" || run.state === "lost";
    drawn.push({ state: run.state, x, width: isHole ? Math.max(WIDTH_MIN, end - x) : end - x, height: state.height });
  }
  return drawn;
}

/// How many buckets are in each state within a stretch. Pure.
export function totals(runs, from, to) {
  const sums = Object.fromEntries(STATES.map((state) => [state.name, 0]));
  for (const run of runs) {
    const seconds = Math.min(run.to, to) - Math.max(run.from, from);
    if (seconds > 0 && run.state in sums) sums[run.state] += Math.round(seconds / BUCKET);
  }
  return sums;
}

/// The same in words, for who cannot see the strip. Pure.
export function inWords(sums) {
  const parts = STATES.filter((state) => sums[state.name] > 0).map((state) => `${counted(sums[state.name], "bucket")} ${spelled(state.name)}`);
  return parts.length ? parts.reverse().join(", ") : "nothing is known yet";
}

function part(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function block({ state, x, width, height }) {
  const shape = { x: x.toFixed(2), y: HEIGHT - height, width: Math.max(0.5, width).toFixed(2), height, class: `run ${state}` };
  if (state === "missing" || state === "lost") shape.fill = `url(#fill-${state})`;
  return part("rect", shape);
}

/// A strip for `/v1/coverage`'s answer.
export function draw({ pair, from, to, runs }) {
  const svg = part("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", class: "strip", role: "img" });
  svg.setAttribute("aria-label", `${pair}: ${inWords(totals(runs, from, to))}`);
  svg.append(part("rect", { class: "ground", x: 0, y: 0, width: WIDTH, height: HEIGHT }));
  svg.append(...segments(runs, from, to).map(block));
  // Where days begin.
  for (let day = Math.ceil(from / 86400) * 86400; day < to; day += 86400) {
    const x = (((day - from) / (to - from)) * WIDTH).toFixed(2);
    svg.append(part("line", { class: "day", x1: x, x2: x, y1: 0, y2: HEIGHT }));
  }
  return svg;
}

/// How a strip is read: a sample of each state, and what it means.
export function key() {
  return [...STATES].reverse().map((state) => {
    const svg = part("svg", { viewBox: `0 0 24 ${HEIGHT}`, class: "sample", "aria-hidden": "true" });
    svg.append(part("rect", { class: "ground", x: 0, y: 0, width: 24, height: HEIGHT }), block({ state: state.name, x: 0, width: 24, height: state.height }));
    const item = document.createElement("li");
    const word = document.createElement("b");
    word.textContent = state.name;
    item.append(svg, " ", word, ` ${state.means}`);
    return item;
  }).concat(worded("nothing", "it was not watched then"), worded("▲ age", "the newest bar is owed"));
}

function worded(word, means) {
  const item = document.createElement("li");
  const bold = document.createElement("b");
  bold.textContent = word;
  item.append(bold, ` ${means}`);
  return item;
}

// The page: what is asked when, and where it is shown.

import { Gone, Refused, ask, whenTokenNeeded } from "/assets/api.js";
import * as chart from "/assets/chart.js";
import { PAUSE_FIRST, PAUSE_LAST, follow } from "/assets/live.js";
import * as panels from "/assets/panels.js";
import * as strip from "/assets/strip.js";
import { moment, pairName, weekday } from "/assets/words.js";

/// How often the service is asked how it stands, milliseconds.
const STATUS_EVERY = 5_000;
/// How often every strip is drawn anew, milliseconds; those that have changed come sooner.
const STRIPS_EVERY = 60_000;
/// How many strips are asked for at a time.
const STRIPS_AT_ONCE = 3;
/// What has lasted so long, milliseconds, is no repetition of what was before.
const CALM = 60_000;
/// Candles come in bursts, and are drawn once after this time, milliseconds.
const DRAW_AFTER = 60;
/// Rows and entries in lists that would have no end.
const NUMBERS_MAX = 20;
const GAPS_MAX = 8;

const find = (id) => document.getElementById(id);
const choice = { pair: null, timeframe: null, count: null };
/// What is charted: of which choice, bars by their beginning, the forming candle, and what is known of the time between.
let shown = null;
let [status, health, live, stopLive, round] = [null, null, "broken", () => {}, 0];
/// Why the service cannot say how it stands; `status` is what it has said last.
let away = null;
/// What is wrong, by who found it; and what they ask for.
const wrong = new Map();
const ABOUT = { bars: () => `Bars of ${pairName(choice.pair)}`, ledger: () => "What the chart lacks", strips: () => "Strips" };
const strips = new Map();

const isGone = () => wrong.get("status") instanceof Gone;

function trouble(who, error) {
  if (error) wrong.set(who, error);
  else wrong.delete(who);
  // What is neither the service's nor the network's is the page's own mistake.
  if (error && !(error instanceof Gone || error instanceof Refused)) console.error(error);
  const gone = isGone();
  // While the whole service is gone, or its database, that is said once.
  const told = [...wrong].filter(([, error]) => !(gone && error instanceof Gone) && !(away && error.status === 503));
  const lines = [...new Set(told.map(([by, error]) => (error instanceof Gone && by in ABOUT ? `${ABOUT[by]()}: ${error.message}` : error.message)))];
  const shownIs = status ? `; what is shown is of ${moment(seenAt / 1000)} UTC` : "";
  if (gone) lines.unshift(`The service does not answer${shownIs}. Trying again.`);
  else if (away && health.status !== "starting") lines.unshift(`The database does not answer${shownIs}.`);
  panels.tell(lines);
  if (gone) panels.state(["gone", "✕", "Disconnected", "trying again"]);
}

/// When the service has last told how it stands, epoch milliseconds.
let seenAt = 0;

/// Asks how the service stands, again and again.
async function watch() {
  for (;;) {
    const before = status;
    try {
      // A service that is stuck says so with another status, and that is an answer too.
      const told = await Promise.all([ask("/healthz", [503]), ask("/v1/status", [503])]);
      const wasAway = isGone() || away;
      health = told[0];
      away = told[1]?.pairs ? null : new Refused(503, told[1]);
      if (!away) [status, seenAt] = [told[1], Date.now()];
      trouble("status", away);
      show();
      if (wasAway && !away) {
        load();
        redrawAll();
      }
    } catch (error) {
      trouble("status", error);
      await new Promise((go) => setTimeout(go, STATUS_EVERY));
      continue;
    }
    if (status && !away) changed(before);
    await new Promise((go) => setTimeout(go, STATUS_EVERY));
  }
}

function show() {
  panels.state(panels.standing(status, health, live, away));
  const parts = [() => panels.rooms(health)];
  if (status) {
    parts.push(
      offer,
      () => panels.say("clock", `Market time ${weekday(status.now)} UTC`),
      () => panels.stream(status),
      () => panels.allowance(status.allowance),
      () => panels.pairs(status, choice.pair, strips, choose),
      () => panels.say("about", `candlekeep ${health.version} · ${status.database}`),
    );
  }
  let failed = null;
  for (const part of parts) {
    // What one of them cannot show must not keep the others from it.
    try {
      part();
    } catch (error) {
      failed = error;
    }
  }
  trouble("page", failed);
}

/// Fetches what the last answer shows to have changed.
function changed(before) {
  const known = new Map((before?.pairs ?? []).map((pair) => [pair.pair, pair]));
  const moved = status.pairs.filter((pair) => {
    const old = known.get(pair.pair);
    return !old || old.last_timestamp !== pair.last_timestamp || old.missing !== pair.missing;
  });
  const mine = moved.find((pair) => pair.pair === choice.pair);
  const healed = mine && known.get(mine.pair)?.missing !== mine.missing;
  // What is on its way, or waits to be loaded again, comes by itself.
  if (mine && !loading && !waits && (live !== "open" || healed || !shown?.bars.size)) load();
  else if (mine) ledger();
  // A strip of a week does not show a bucket more; only those whose holes have changed are drawn at once.
  redraw(moved.filter((pair) => known.get(pair.pair)?.missing !== pair.missing || !strips.has(pair.pair)).map((pair) => pair.pair));
}

/// Draws strips anew, a few at a time.
const queue = new Set();
let workers = 0;
function redraw(pairs) {
  pairs.forEach((pair) => queue.add(pair));
  while (workers < STRIPS_AT_ONCE && queue.size > workers) {
    workers += 1;
    drawQueued().finally(() => (workers -= 1));
  }
}

function redrawAll() {
  if (status) redraw(status.pairs.map((pair) => pair.pair));
}

async function drawQueued() {
  for (const pair of queue) {
    queue.delete(pair);
    try {
      // The last seven days by the service's own now, which a simulated market may have set back since the page asked.
      const told = await ask(`/v1/coverage?${new URLSearchParams({ pair, timeframe: "5" })}`);
      strips.set(pair, strip.draw(told));
      panels.say("days", `${weekday(told.from)} to ${weekday(told.to)}`);
      panels.pairs(status, choice.pair, strips, choose);
      trouble("strips", null);
    } catch (error) {
      // All are drawn when it is there again.
      if (error instanceof Gone) queue.clear();
      trouble("strips", error);
    }
  }
}

/// Fills the choices, once it is known what there is.
function offer() {
  if (choice.pair) return;
  const pairs = status.pairs.map((pair) => pair.pair);
  find("pair").replaceChildren(...pairs.map((pair) => new Option(pairName(pair), pair)));
  for (const timeframe of status.timeframes) {
    const label = document.createElement("label");
    label.append(Object.assign(document.createElement("input"), { type: "radio", name: "timeframe", value: timeframe }), timeframe);
    find("timeframes").append(label);
  }
  const counts = [...find("count").options].map((option) => option.value);
  Object.assign(choice, {
    pair: pairs.includes("EUR_USD") ? "EUR_USD" : pairs[0],
    timeframe: status.timeframes[0],
    count: matchMedia("(max-width: 40rem)").matches ? counts[0] : counts[1],
  });
  follows();
  load();
}

/// Chooses what the address asks for, as far as there is such a thing. Whether that is something else than before.
function follows() {
  const asked = new URLSearchParams(location.hash.slice(1));
  let isOther = false;
  for (const name of Object.keys(choice)) {
    const offered = [...find("choice").querySelectorAll(`[name=${name}] option, input[name=${name}]`)];
    const named = (value) => offered.find((one) => one.value === value);
    const chosen = named(asked.get(name)) ?? named(choice[name]);
    chosen["selected" in chosen ? "selected" : "checked"] = true;
    isOther ||= choice[name] !== chosen.value;
    choice[name] = chosen.value;
  }
  return isOther;
}

/// Charts another pair.
function choose(pair) {
  find("pair").value = pair;
  find("choice").dispatchEvent(new Event("change"));
  find("bars").scrollIntoView({ block: "start" });
}

/// The round whose bars are on their way.
let loading = 0;
/// What loads again and from which seq on, the pause before it, milliseconds, and when that was last wanted.
let [waits, from, pause, wanted] = [null, undefined, PAUSE_FIRST, -Infinity];

/// Asks for all that is charted, and follows it from there. All up to the seq `floor` was stored before, as far as it is
/// there still, so that nothing before it need be followed.
async function load(floor) {
  // Who sees nothing leaves his connection to another tab: browsers have six for all of them.
  if (!choice.pair || document.hidden) return;
  const mine = (loading = ++round);
  const { pair, timeframe, count } = choice;
  clearTimeout(waits);
  waits = null;
  stopLive();
  try {
    const told = await ask(`/v1/candles?${new URLSearchParams({ pair, timeframe, count })}`);
    if (mine !== round) return;
    shown = { pair, timeframe, count, bars: new Map(told.candles.map((bar) => [bar.time, bar])), forming: null, runs: [] };
    const seqs = told.candles.map((bar) => bar.seq).concat(floor ?? []);
    stopLive = follow({ pairs: pair, timeframes: timeframe, forming: "true" }, seqs.length ? Math.max(...seqs) : undefined, {
      told: heard,
      stands(word, why) {
        if (mine !== round) return;
        // While the service is gone, that is said already; and without events, bars are asked for.
        trouble("live", word === "refused" ? new Refused(0, { reason: `Events: ${why}` }) : null);
        stands(word);
      },
      // Without a bar there is no seq to begin with; what was stored since the answer is asked for once more.
      begins: load,
    });
  } catch (error) {
    if (mine !== round) return;
    loading = 0;
    trouble("bars", error);
    stands("failed");
    return again(floor);
  }
  loading = 0;
  trouble("bars", null);
  await ledger();
}

/// Loads again after a pause, which grows for as long as that is wanted again and again.
function again(floor) {
  from = floor;
  // Who wants it twice does not wait longer for it.
  if (waits) return;
  pause = performance.now() - wanted < CALM ? Math.min(pause * 2, PAUSE_LAST) : PAUSE_FIRST;
  wanted = performance.now();
  waits = setTimeout(() => load(from), pause);
}

/// Says how bars come.
function stands(word) {
  live = word;
  if (status && !isGone()) panels.state(panels.standing(status, health, live, away));
}

/// Asks what is known of the time that is charted.
async function ledger() {
  const charted = shown;
  if (!charted) return;
  const times = [...charted.bars.keys()].sort((a, b) => a - b).slice(-Number(charted.count));
  if (times.length) {
    try {
      const told = await ask(`/v1/coverage?${new URLSearchParams({ pair: charted.pair, timeframe: "5", from: times[0] })}`);
      if (charted !== shown) return;
      charted.runs = told.runs;
      trouble("ledger", null);
    } catch (error) {
      if (charted === shown) trouble("ledger", error);
    }
  }
  draw();
}

/// Takes an event of the stream.
function heard(event, data) {
  if (event === "reset") return again(data.seq);
  if (event === "forming") shown.forming = data;
  if (event === "candle" || event === "revision") {
    shown.bars.set(data.time, data);
    if (shown.forming && shown.forming.time <= data.time) shown.forming = null;
  }
  drawSoon();
}

let waiting = null;
function drawSoon() {
  waiting ??= setTimeout(() => {
    waiting = null;
    draw();
  }, DRAW_AFTER);
}

let drawing = Promise.resolve();
/// Draws the chart and what stands around it; one at a time.
function draw() {
  drawing = drawing.then(drawNow).catch((error) => trouble("chart", error));
}

async function drawNow() {
  if (!shown) return;
  const { pair, timeframe, count } = shown;
  const bars = [...shown.bars.values()].sort((a, b) => a.time - b.time).slice(-Number(count));
  // No more is kept than is shown.
  shown.bars = new Map(bars.map((bar) => [bar.time, bar]));
  panels.say("bars-title", `${pairName(pair)}, ${timeframe} minutes`);
  panels.bars(bars, pair, timeframe, NUMBERS_MAX);
  const note = find("chart-note");
  note.hidden = bars.length > 0;
  if (!bars.length) {
    chart.clear(find("chart"));
    note.textContent = `No bars of ${pairName(pair)} are stored yet.`;
    find("chart").setAttribute("aria-label", note.textContent);
    find("gaps").replaceChildren();
    find("gaps-title").hidden = true;
    return;
  }
  const runs = shown.runs.filter((run) => run.to > bars[0].time);
  find("gaps-title").hidden = false;
  panels.gaps(runs, GAPS_MAX);
  const forming = shown.forming && shown.forming.time > bars.at(-1).time ? shown.forming : null;
  await chart.draw(find("chart"), { pair, timeframe, bars, forming, runs, view: `${pair} ${timeframe} ${count}` });
  trouble("chart", null);
}

/// Shows the form for the token, until there is one.
whenTokenNeeded((reason) => new Promise((given) => {
  const [form, field] = [find("token-form"), find("token-text")];
  document.documentElement.dataset.state = "token";
  panels.state(["token", "▲", "Token needed", ""]);
  panels.say("token-why", reason);
  [find("token").hidden, find("main").hidden] = [false, true];
  field.focus();
  form.onsubmit = (event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (!text) return;
    field.value = "";
    [find("token").hidden, find("main").hidden] = [true, false];
    panels.state(["connecting", "◌", "Connecting", ""]);
    given(text);
  };
}));

find("choice").addEventListener("submit", (event) => event.preventDefault());
find("choice").addEventListener("change", () => {
  const form = new FormData(find("choice"));
  for (const name of ["pair", "timeframe", "count"]) choice[name] = form.get(name);
  history.replaceState(null, "", `#${new URLSearchParams(choice)}`);
  if (status) panels.pairs(status, choice.pair, strips, choose);
  load();
});
addEventListener("hashchange", () => {
  if (!choice.pair || !follows()) return;
  panels.pairs(status, choice.pair, strips, choose);
  load();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return void load();
  round += 1;
  clearTimeout(waits);
  [waits, loading] = [null, 0];
  stopLive();
  stands("broken");
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
setInterval(() => isGone() || away || redrawAll(), STRIPS_EVERY);
find("key").replaceChildren(...strip.key());
watch();

// The dashboard in a browser, in each of its states: what is on the page, what it asks for, and what goes wrong on it.
//
//     node check.mjs BINARY [--quick | --readme FILE] [--pictures FOLDER]

import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";

import { Browser, until } from "./browser.mjs";
import { World } from "./world.mjs";

const { values: options, positionals } = parseArgs({ allowPositionals: true, options: { quick: { type: "boolean" }, pictures: { type: "string" }, readme: { type: "string" } } });
const binary = resolve(positionals[0]);
if (options.pictures) mkdirSync(options.pictures, { recursive: true });

const DESKTOP = { width: 1280, height: 900 };
const PHONE = { width: 390, height: 844, mobile: true };
const TOKEN = "0123456789abcdef0123456789abcdef";

let checked = 0;
function check(what, is, seen = "") {
  if (!is) throw new Error(`${what}${seen === "" ? "" : `: ${JSON.stringify(seen)}`}`);
  checked += 1;
}

const text = (id) => `document.getElementById("${id}").innerText`;
const state = `document.documentElement.dataset.state`;
const last = `Number(document.getElementById("chart").dataset.last)`;
const said = (word) => `document.getElementById("told").innerText.includes(${JSON.stringify(word)})`;

/// Goes to an address, and waits until its scripts run.
async function arrive(page, url) {
  await page.open(url);
  await page.until(`location.href === ${JSON.stringify(url)} && document.readyState === "complete" && Boolean(document.getElementById("key")?.children.length)`);
}

async function opened(browser, world, view = DESKTOP) {
  const page = await browser.page(view);
  await arrive(page, `${world.url}/`);
  return page;
}

/// Nothing went wrong, but for what a state brings along; and nobody else was asked for anything.
function nothingWrong(page, world, allowed = /^$/) {
  const errors = page.errors.filter((error) => !allowed.test(error));
  check("nothing goes wrong", errors.length === 0, errors);
  const elsewhere = page.asked.filter((url) => !url.startsWith(`${world.url}/`) && !url.startsWith("data:"));
  check("nothing is asked of another host", elsewhere.length === 0, elsewhere);
  page.errors.length = 0;
}

/// Every text can be read and every control has a name, in what is shown now.
async function readable(page) {
  const faint = await page.ask(`(${faintTexts})()`);
  check("every text has a contrast of 4.5", faint.length === 0, faint);
  const { nodes } = await page.say("Accessibility.getFullAXTree");
  const value = (node, name) => node.properties?.find((property) => property.name === name)?.value.value;
  const controls = nodes.filter((node) => !node.ignored && value(node, "focusable") && node.role.value !== "RootWebArea");
  const nameless = controls.filter((node) => !node.name?.value && !["main"].includes(node.role.value));
  check("every control has a name", nameless.length === 0, nameless.map((node) => node.role.value));
  const roles = new Set(nodes.map((node) => node.role?.value));
  for (const role of ["banner", "contentinfo", "heading"]) check(`there is a ${role}`, roles.has(role), [...roles]);
  const wide = await page.ask("document.documentElement.scrollWidth - document.documentElement.clientWidth");
  check("nothing is wider than the page", wide <= 0, wide);
}

/// Texts whose contrast with what is behind them is less than WCAG's AA asks for; runs on the page.
function faintTexts() {
  const parse = (colour) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return { rgb: [r, g, b], a: a / 255 };
  };
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const over = ({ rgb, a }, below) => rgb.map((v, i) => v * a + below[i] * (1 - a));
  const behind = (element) => {
    if (!element) return [255, 255, 255];
    const colour = parse(getComputedStyle(element).backgroundColor);
    return colour.a === 1 ? colour.rgb : over(colour, behind(element.parentElement));
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const [node, element] = [walker.currentNode, walker.currentNode.parentElement];
    if (!node.data.trim() || !element.checkVisibility() || element.closest("option, .skip, noscript, #chart")) continue;
    const ground = behind(element);
    const colour = parse(getComputedStyle(element).color);
    const [a, b] = [light(over(colour, ground)), light(ground)].sort((a, b) => b - a);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(`${node.data.trim().slice(0, 40)} ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
  }
  return faint;
}

/// The chart, where there is one, has come to be as wide as its place.
const FITS = `(() => {
  const [place, drawn] = [document.querySelector("#chart"), document.querySelector("#chart .main-svg")];
  return !drawn || Math.abs(drawn.getBoundingClientRect().width - place.clientWidth) <= 2;
})()`;

async function pictures(page, name) {
  for (const [kind, view] of Object.entries({ desktop: DESKTOP, phone: PHONE })) {
    for (const scheme of ["light", "dark"]) {
      await page.view({ ...view, scheme });
      await page.until(FITS);
      await readable(page);
      if (options.pictures) await page.picture(join(options.pictures, `${name}-${kind}-${scheme}.png`));
    }
  }
  await page.view({ width: 320, height: 640, mobile: true });
  await readable(page);
  await page.view(DESKTOP);
}

/// What is computed without a page, in the browser that computes it.
async function parts(page) {
  const told = await page.ask(`(async () => {
    const { Events } = await import("/assets/events.js");
    const stream = ": keepalive\\n\\nevent: candle\\r\\nid: 7\\r\\ndata: {\\"a\\":\\r\\ndata: 1}\\r\\n\\r\\nevent: forming\\rdata: x\\r\\rdata:y\\n\\nid: 9\\ndata\\n\\nevent: cut\\ndata: off";
    const whole = JSON.stringify(new Events().feed(stream));
    const same = [];
    for (let size = 1; size < stream.length; size += 1) {
      const [events, got] = [new Events(), []];
      for (let at = 0; at < stream.length; at += size) got.push(...events.feed(stream.slice(at, at + size)));
      if (JSON.stringify(got) !== whole) same.push([size, got]);
    }
    let endless = "taken";
    try { const events = new Events(); for (let i = 0; i < 40; i += 1) events.feed("data: " + "x".repeat(1 << 16)); } catch { endless = "refused"; }
    const [ids, at] = [new Events(), []];
    for (const piece of ["id: 3\\ndata: x\\n", "\\n", "id: 4\\n: keepalive\\n\\n"]) at.push((ids.feed(piece), ids.lastId));
    return { whole: JSON.parse(whole), same, endless, at };
  })()`);
  check("events are read in any pieces", told.same.length === 0, told.same);
  const expected = [
    { event: "candle", data: '{"a":\n1}', id: "7" }, { event: "forming", data: "x", id: "7" },
    { event: "message", data: "y", id: "7" }, { event: "message", data: "", id: "9" },
  ];
  check("events are what the standard says", JSON.stringify(told.whole) === JSON.stringify(expected), told.whole);
  check("an id counts once its block is whole, without data too", told.at.join() === ",3,4", told.at);
  check("an event without end is refused", told.endless === "refused");
  const follows = await page.ask(`(async () => {
    const { follow } = await import("/assets/live.js");
    const [real, asked, began] = [fetch, [], []];
    await new Promise((done) => {
      window.fetch = (path, options) => {
        if (!path.includes("none=here")) return real(path, options);
        if (asked.push(new URL(path, location).searchParams.get("after")) === 3) done();
        return Promise.resolve(new Response(["id: 41\\n: all after it follows\\n\\n", "id: 42\\n: keepalive\\n\\n", ""][asked.length - 1]));
      };
      window.stopFollowing = follow({ none: "here" }, undefined, { told() {}, stands() {}, begins: (seq) => began.push(seq) });
    });
    window.stopFollowing();
    window.fetch = real;
    return { asked, began };
  })()`);
  check("it is gone on from every id", JSON.stringify(follows) === JSON.stringify({ asked: [null, "41", "42"], began: [41] }), follows);
  const strip = await page.ask(`(async () => {
    const { segments, totals, inWords } = await import("/assets/strip.js");
    const runs = [{ from: 0, to: 3000, state: "stored" }, { from: 3000, to: 3300, state: "missing" }, { from: 3300, to: 9000, state: "closed" }];
    return { drawn: segments(runs, 300, 6300), sums: totals(runs, 300, 6300), words: inWords(totals(runs, 300, 6300)), narrow: segments([{ from: 0, to: 300, state: "lost" }], 0, 604800) };
  })()`);
  check("a strip shows its stretch alone", JSON.stringify(strip.sums) === JSON.stringify({ closed: 10, quiet: 0, stored: 9, missing: 1, lost: 0 }), strip.sums);
  check("holes are drawn over the rest", strip.drawn.map(({ state }) => state).join() === "closed,stored,missing", strip.drawn);
  check("a strip is told in words", strip.words === "1 bucket missing, 9 buckets stored, 10 buckets closed", strip.words);
  check("one bucket in a week can be seen", strip.narrow[0].width >= 8, strip.narrow);
  const prices = await page.ask(`(async () => {
    const [panels, chart] = [await import("/assets/panels.js"), await import("/assets/chart.js")];
    const bars = [{ time: 0, open: 1.1, high: 1.2, low: 1, close: 1.1, volume: 7, source: "websocket", revision: 0 }];
    const shown = (pair) => {
      panels.bars(bars, pair, "5", 1);
      const cells = [...document.querySelectorAll("#numbers-rows td")].slice(0, 4).map((cell) => cell.textContent);
      return [document.getElementById("last").textContent.split(" closed")[0], cells.join(), chart.inWords(pair, "5", bars, []).split("between ")[1]].join("; ");
    };
    return { eur: shown("EUR_USD"), jpy: shown("USD_JPY") };
  })()`);
  check("prices have the chart's decimals", prices.eur === "1.10000; 1.10000,1.20000,1.00000,1.10000; 1.00000 and 1.20000, last close 1.10000", prices.eur);
  check("those of the yen have fewer", prices.jpy.startsWith("1.100; 1.100,"), prices.jpy);
  const words = await page.ask(`(async () => {
    const words = await import("/assets/words.js");
    return [[0, 59, 60, 3599, 3600, 5400, 86400, 180000].map(words.length), words.stretch(1705399200, 1705402800), words.stretch(1705448400, 1705449900)];
  })()`);
  check("times are told", JSON.stringify(words) === JSON.stringify([["0 s", "59 s", "1 min", "59 min", "1 h", "1 h 30 min", "1 d", "2 d 2 h"], "2024-01-16 10:00 to 11:00", "2024-01-16 23:40 to 2024-01-17 00:05"]), words);
  const breaks = await page.ask(`import("/assets/chart.js").then(({ breaks }) => breaks([{ state: "closed", from: 0, to: 3000 }, { state: "closed", from: 3000, to: 6000 }, { state: "stored", from: 6000, to: 9000 }, { state: "closed", from: 9000, to: 9300 }], 300))`);
  check("the axis leaves out what was closed", JSON.stringify(breaks) === "[[0,6000]]", breaks);
}

const GONE = /ERR_CONNECTION|ERR_INCOMPLETE|ERR_EMPTY|net::|status of 503/;

/// From an empty database to bars that come by themselves.
async function emptyThenLive(browser, world) {
  await world.run();
  const page = await opened(browser, world);
  await page.until(`${state} === "starting" || ${state} === "silent" || ${state} === "empty"`);
  await page.until(`${text("chart-note")} === "No bars of EUR/USD are stored yet."`);
  check("pairs are listed before there is a bar", (await page.ask(`document.querySelectorAll("#pairs-rows tr").length`)) === 28);
  const streams = () => page.asked.filter((url) => url.includes("/v1/stream")).map((url) => new URL(url).searchParams.get("after"));
  await until("events are followed from where they begin", () => streams().length >= 2);
  check("without a bar they begin with what comes now", streams()[0] === null && streams().slice(1).every((after) => after !== null), streams());
  if (!options.quick) await pictures(page, "empty");
  nothingWrong(page, world, GONE);

  world.simulate("2024-01-16T10:00:00Z", 60);
  await page.until(`${state} === "live" && ${text("state-more")} === "bars appear as they are stored" && ${last} > 0`);
  await parts(page);
  const before = await page.ask(last);
  check("bars are charted", (await page.ask(`Number(document.getElementById("chart").dataset.bars)`)) > 50);
  await page.ask("window.marked = true");
  await page.until(`${last} >= ${before + 600}`);
  check("a new bar appears without a reload", await page.ask("window.marked"));
  check("the new bar is written, too", (await page.ask(`document.querySelector("#numbers-rows th").textContent`)) > "2024-01-16 10:0");
  await page.until(`Number(document.getElementById("chart").dataset.forming) > ${last}`);
  await page.until(`document.querySelectorAll("#pairs-rows svg.strip").length === 28`);
  check("a strip says what it shows", /^EUR_USD: \d+ buckets stored/.test(await page.ask(`document.querySelector('[data-pair="EUR_USD"] svg').getAttribute("aria-label")`)));
  check("the gauge shows the points", (await page.ask(`document.getElementById("allowance").value`)) > 0);
  check("every actor is listed", /stream\s+●\s+running\s+0/.test(await page.ask(text("rooms"))), await page.ask(text("rooms")));
  check("the stream is told of", (await page.ask(text("stream"))).includes("streaming"), await page.ask(text("stream")));
  check("nothing is told to be wrong", (await page.ask(text("told"))) === "", await page.ask(text("told")));
  nothingWrong(page, world);
  return page;
}

/// Another pair and another length, by the keyboard alone.
async function byKeyboard(page, world) {
  await page.ask(`document.querySelector('[name=timeframe][value="5"]').focus()`);
  await page.press("ArrowRight");
  await page.until(`${text("bars-title")} === "EUR/USD, 15 minutes"`);
  await page.until(`${last} % 900 === 0`);
  await page.ask(`document.querySelector('[data-pair="USD_JPY"] button').focus()`);
  await page.press("Enter", "Enter", "\r");
  await page.until(`${text("bars-title")} === "USD/JPY, 15 minutes" && document.getElementById("last").textContent.startsWith("1")`);
  check("what is chosen can be linked to", (await page.ask("location.hash")).startsWith("#pair=USD_JPY&timeframe=15"));
  check("the chosen pair is marked for who cannot see", (await page.ask(`document.querySelector('[aria-pressed="true"]').textContent`)) === "USD/JPY");
  // Links in a page that is open already.
  await page.ask(`location.hash = "#pair=GBP_USD&timeframe=5&count=60"`);
  await page.until(`${text("bars-title")} === "GBP/USD, 5 minutes" && document.getElementById("chart").dataset.bars === "60"`);
  check("what a link leads to is chosen", (await page.ask(`JSON.stringify(Object.fromEntries(new FormData(document.getElementById("choice"))))`)) === '{"pair":"GBP_USD","timeframe":"5","count":"60"}');
  check("and marked", (await page.ask(`document.querySelector('[aria-pressed="true"]').textContent`)) === "GBP/USD");
  await page.ask(`location.hash = "#main"`);
  await page.ask(`location.hash = "#pair=EUR_USD&timeframe=7&count=120"`);
  await page.until(`${text("bars-title")} === "EUR/USD, 5 minutes" && ${state} === "live"`);
  nothingWrong(page, world);
}

/// More tabs than a browser has connections for.
async function manyTabs(browser, page, world) {
  const isOpen = `${state} === "live" && ${text("state-more")} === "bars appear as they are stored"`;
  const tabs = [];
  for (let count = 0; count < 7; count += 1) {
    const tab = await browser.page(DESKTOP, page);
    tabs.push(tab);
    await arrive(tab, `${world.url}/`);
    await tab.until(`${isOpen} && ${last} > 0`);
  }
  check("a tab behind others is hidden", await page.ask("document.hidden"));
  const before = await page.ask(last);
  await page.toFront();
  await page.until(`${isOpen} && ${last} > ${before}`);
  for (const tab of tabs) {
    nothingWrong(tab, world);
    await tab.close();
  }
  nothingWrong(page, world);
}

/// Bars do not come, while all else does.
async function withoutBars(page, world) {
  const asked = () => page.asked.filter((url) => url.includes("/v1/candles")).length;
  await page.block("/v1/candles");
  const [before, began] = [asked(), Date.now()];
  await page.ask(`document.querySelector('[data-pair="USD_JPY"] button').click()`);
  await page.until(`${text("state-word")} === "Bars do not come" && ${said("Bars of USD/JPY: the service does not answer")}`);
  await until("they are asked for again", () => asked() >= before + 4);
  check("they are asked for ever more rarely", Date.now() - began > 5_000, Date.now() - began);
  check("what is charted keeps its name", (await page.ask(text("bars-title"))) === "EUR/USD, 5 minutes", await page.ask(text("bars-title")));
  check("and its prices", /^EUR\/USD, .* last close 1\.\d+/.test(await page.ask(`document.getElementById("chart").getAttribute("aria-label")`)));
  await pictures(page, "without-bars");
  await page.block();
  await page.until(`${text("bars-title")} === "USD/JPY, 5 minutes" && ${state} === "live" && ${text("told")} === ""`);
  await page.ask(`document.querySelector('[data-pair="EUR_USD"] button').click()`);
  await page.until(`${text("bars-title")} === "EUR/USD, 5 minutes" && ${text("state-more")} === "bars appear as they are stored"`);
  nothingWrong(page, world, GONE);
}

/// A stream that can never be gone on with, as one whose log loses its beginning faster than it is read.
async function resetAgainAndAgain(page, world) {
  const END = 2_000_000_000;
  const questions = (path) => page.ask(`window.questions.filter(({ pathname }) => pathname === "${path}").map(({ search }) => search)`);
  await page.ask(`(() => {
    window.questions = [];
    const real = (window.realFetch = window.fetch);
    window.fetch = (path, options) => {
      const { pathname, search } = new URL(path, location);
      window.questions.push({ pathname, search });
      return pathname === "/v1/stream" ? Promise.resolve(new Response('event: reset\\nid: ${END}\\ndata: {"seq":${END}}\\n\\n')) : real(path, options);
    };
  })()`);
  const began = Date.now();
  await page.ask(`document.querySelector('[data-pair="GBP_USD"] button').click()`);
  await until("bars are asked for again", async () => (await questions("/v1/candles")).length >= 3);
  check("a reset is followed ever more rarely", Date.now() - began > 2_500, Date.now() - began);
  const streams = await questions("/v1/stream");
  check("what follows a reset begins where it said", streams.slice(1).every((search) => search.includes(`after=${END}`)), streams);
  await page.ask("window.fetch = window.realFetch");
  await page.ask(`document.querySelector('[data-pair="EUR_USD"] button').click()`);
  await page.until(`${text("bars-title")} === "EUR/USD, 5 minutes" && ${text("state-more")} === "bars appear as they are stored"`);
  nothingWrong(page, world);
}

/// The service runs, and its database does not answer.
async function withoutDatabase(page, world) {
  const before = await page.ask(last);
  world.isAway(true);
  await page.until(`${text("state-word")} === "Database away" && ${text("state-more")} !== ""`);
  await page.until(`/^The database does not answer; what is shown is of .*\\d\\d:\\d\\d UTC\\.$/.test(${text("told")})`);
  check("what was known stays on the page", (await page.ask(`document.querySelectorAll("#pairs-rows tr").length`)) === 28);
  // Whatever asks by itself has nothing to show, and makes no mistake for it.
  await page.ask(`document.querySelector('[data-pair="USD_JPY"] button').click()`);
  await page.until(`document.querySelector('[aria-pressed="true"]').textContent === "USD/JPY" && ${text("state-word")} === "Database away"`);
  await pictures(page, "database-away");
  world.isAway(false);
  await page.ask(`document.querySelector('[data-pair="EUR_USD"] button').click()`);
  await page.until(`${state} === "live" && ${text("told")} === "" && ${last} > ${before}`);
  nothingWrong(page, world, GONE);
}

/// The service goes and comes again.
async function goneAndBack(page, world) {
  await world.end("service", "SIGKILL");
  await page.until(`${state} === "gone" && /^The service does not answer; what is shown is of \\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d UTC\\. Trying again\\.$/.test(${text("told")})`);
  check("what was known stays on the page", (await page.ask(`Number(document.getElementById("chart").dataset.bars)`)) > 50);
  await pictures(page, "disconnected");
  const before = await page.ask(last);
  await world.run();
  await page.until(`${state} === "live" && ${text("told")} === "" && ${last} > ${before}`);
  check("it is the same page still", await page.ask("window.marked"));
  nothingWrong(page, world, GONE);
}

/// An hour or more that nobody saw, and no points left to have it fetched.
async function hole(page, world) {
  const seen = await page.ask(last);
  await world.end("service");
  await world.end("simulator", "SIGKILL");
  world.simulate(String((Math.ceil(seen / 3_600) + 1) * 3_600), 60, "--allowance", "0");
  await world.run();
  await page.until(`${state} === "live" && [...document.querySelectorAll("#gaps [data-state=missing]")].length > 0`, 120_000);
  const missing = await page.ask(`document.querySelector('[data-pair="EUR_USD"]').children[3].textContent`);
  check("missing buckets are counted", /^▲ \d+$/.test(missing), missing);
  await page.until(`/missing/.test(document.querySelector('[data-pair="EUR_USD"] svg').getAttribute("aria-label"))`);
  await page.until(`/gaps, listed below/.test(document.getElementById("chart").getAttribute("aria-label"))`);
  check("the hole is drawn", (await page.ask(`document.querySelectorAll("#chart .shapelayer path").length`)) > 0);
  await pictures(page, "gap");
  nothingWrong(page, world, GONE);
}

/// One pair has no bar, and all others have theirs.
async function unready(browser) {
  const world = await World.make(binary);
  try {
    const script = join(world.home, "faults.json");
    writeFileSync(script, JSON.stringify([{ do: "refuse_items", pairs: ["EUR_USD"], times: 1_000, code: -1, text: "Insufficient permissions" }]));
    world.simulate("2024-01-16T10:00:00Z", 60, "--allowance", "0", "--faults", script);
    await world.run();
    const page = await opened(browser, world);
    await page.until(`${state} === "unready" && ${text("state-more")} === "1 of 28 pairs lacks its newest bar"`);
    check("readyz says so, too", (await fetch(`${world.url}/readyz`)).status === 503);
    const age = (pair) => page.ask(`document.querySelector('[data-pair="${pair}"]').children[2].textContent`);
    check("the pair is marked, and why", /^▲ – 5 minutes, there is no bar yet$/.test(await age("EUR_USD")), await age("EUR_USD"));
    await until("the others are not", async () => !(await age("GBP_USD")).includes("▲"));
    // Anew, where the log has a beginning.
    page.asked.length = 0;
    await arrive(page, `${world.url}/?again`);
    const streams = () => page.asked.filter((url) => url.includes("/v1/stream")).map((url) => Number(new URL(url).searchParams.get("after") ?? NaN));
    await until("events are followed from where they begin", () => streams().length >= 2);
    check("a pair without bars has nobody read the log from its beginning", Number.isNaN(streams()[0]) && streams()[1] > 0, streams());
    await page.until(`${state} === "unready" && document.querySelectorAll("#pairs-rows svg.strip").length === 28`);
    await pictures(page, "unready");
    nothingWrong(page, world, GONE);
  } finally {
    await world.close();
  }
}

async function closed(browser) {
  const world = await World.make(binary);
  try {
    world.simulate("2024-01-19T21:40:00Z", 120);
    await world.run();
    const page = await opened(browser, world);
    await page.until(`${state} === "closed"`, 90_000);
    check("it is said when it opens", /^opens Sun 2\d:\d\d UTC$/.test(await page.ask(text("state-more"))), await page.ask(text("state-more")));
    await page.until(`${last} > 0`);
    await pictures(page, "closed");
    nothingWrong(page, world, GONE);
  } finally {
    await world.close();
  }
}

async function withToken(browser) {
  const world = await World.make(binary);
  try {
    writeFileSync(join(world.home, "token"), TOKEN, { mode: 0o600 });
    world.variables.CANDLEKEEP_HTTP_TOKEN_FILE = join(world.home, "token");
    world.simulate("2024-01-16T10:00:00Z", 60);
    await world.run();
    for (const path of ["/v1/status", "/v1/candles?pair=EUR_USD&timeframe=5", "/v1/stream", "/healthz", "/metrics", "/assets/../v1/status", "//v1/status", "/%2e/v1/status", "/assets/none"]) {
      check(`${path} asks for the token`, (await fetch(world.url + path)).status === 401, path);
    }
    const page = await browser.page(DESKTOP);
    // Limits are a fifth of what they are, and every state is noted.
    await page.prepare(`{
      const real = AbortSignal.timeout.bind(AbortSignal);
      [window.states, window.limits] = [[], []];
      AbortSignal.timeout = (limit) => (window.limits.push(limit / 5), real(limit / 5));
      new MutationObserver(() => window.states.push(${state})).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-state"] });
    }`);
    await arrive(page, `${world.url}/`);
    const shownSince = Date.now();
    await page.until(`${state} === "token" && document.activeElement.id === "token-text"`);
    check("nothing is shown without it", await page.ask(`document.getElementById("main").hidden`));
    check("the service's reason is shown", (await page.ask(text("token-why"))).includes("http.token_file"));
    await pictures(page, "token");
    check("nothing else is told", (await page.ask(text("told"))) === "", await page.ask(text("told")));
    await page.ask(`document.getElementById("token-text").focus()`);
    await page.type("not the token, but long enough");
    await page.press("Enter", "Enter", "\r");
    await page.until(`${text("token-why")}.startsWith("It was not this one.")`);
    const limit = await page.ask("Math.max(...window.limits)");
    await until("a token takes longer than any answer may", () => Date.now() - shownSince > limit + 500);
    await page.type(TOKEN);
    await page.press("Enter", "Enter", "\r");
    await page.until(`${state} === "live" && ${last} > 0 && ${text("state-more")} === "bars appear as they are stored"`);
    const states = await page.ask("window.states");
    check("who takes his time is not told that the service is gone", states.includes("token") && states.includes("live") && !states.includes("gone"), states);
    check("it is kept for this tab alone", await page.ask(`Object.values(sessionStorage).includes("${TOKEN}") && localStorage.length === 0 && document.cookie === ""`));
    check("it is in no address", !page.asked.some((url) => url.includes(TOKEN)));
    await arrive(page, `${world.url}/?again`);
    await page.until(`${state} === "live" && ${last} > 0`);
    nothingWrong(page, world, /status of 401/);
    const other = await opened(browser, world);
    await other.until(`${state} === "token"`);
  } finally {
    await world.close();
  }
}

/// What somebody sees who tries the program: a week with a weekend in it, and a connection that was cut.
async function demonstration(browser) {
  const world = await World.make(binary);
  try {
    await world.demo();
    const page = await opened(browser, world);
    await page.until(`${state} === "live" && ${last} > 0`);
    await until("the demonstration is over", () => /^The service is still up/m.test(world.said("service")), 180_000);
    // Anew, as somebody sees it who comes now.
    await arrive(page, `${world.url}/?week#pair=EUR_USD&timeframe=15&count=480`);
    await page.until(`${state} === "live" && ${last} > 0 && document.querySelectorAll("#pairs-rows svg.strip").length === 28`);
    check("a break of the stream is told of", /Last break\s+2024-01-12 18:\d\d/.test(await page.ask(text("stream"))), await page.ask(text("stream")));
    const label = await page.ask(`document.querySelector('[data-pair="EUR_USD"] svg').getAttribute("aria-label")`);
    check("a weekend is closed", /, 564 buckets closed$/.test(label), label);
    await page.until(`document.getElementById("chart").layout.xaxis.rangebreaks.length === 1`);
    await arrive(page, `${world.url}/?day`);
    await page.until(`${state} === "live" && ${last} > 0 && document.querySelectorAll("#pairs-rows svg.strip").length === 28`);
    if (options.readme) {
      await page.view({ width: 1280, height: 1060 });
      await page.picture(options.readme, false);
    } else await pictures(page, "demo");
    nothingWrong(page, world);
  } finally {
    await world.close();
  }
}

const browser = await Browser.start();
const world = await World.make(binary);
let step = "";
const part = async (name, work) => {
  step = name;
  const began = Date.now();
  const done = await work();
  console.log(`${name}: ${((Date.now() - began) / 1000).toFixed(1)} s`);
  return done;
};
try {
  const page = options.readme ? await part("the picture", () => demonstration(browser)) : await part("an empty database, then bars that come by themselves", () => emptyThenLive(browser, world));
  if (!options.quick && !options.readme) {
    await part("live", () => pictures(page, "live"));
    await part("by the keyboard", () => byKeyboard(page, world));
    await part("many tabs", () => manyTabs(browser, page, world));
    await part("bars do not come", () => withoutBars(page, world));
    await part("resets without end", () => resetAgainAndAgain(page, world));
    await part("the database is away", () => withoutDatabase(page, world));
    await part("the service goes and comes again", () => goneAndBack(page, world));
    await part("a hole", () => hole(page, world));
    await world.close();
    await part("not fit to trade on", () => unready(browser));
    await part("the market closes", () => closed(browser));
    await part("a token", () => withToken(browser));
    await part("the demonstration", () => demonstration(browser));
  }
  console.log(`${checked} checks`);
} catch (error) {
  console.error(`FAILED: ${step}: ${error.message}`);
  for (const name of ["service", "simulator"]) console.error(`${name} said at last:\n${world.said(name).split("\n").slice(-15).join("\n")}`);
  process.exitCode = 1;
} finally {
  await world.close();
  await browser.end();
}

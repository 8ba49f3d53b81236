// Everything on the page that is not the chart: the service, its allowance, its actors, its pairs.

import { counted, decimals, length, moment, pairName, spelled, stretch, weekday } from "/assets/words.js";

const find = (id) => document.getElementById(id);

/// An element with this content. What the service says is only ever text.
function make(name, content = [], attributes = {}) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...[content].flat());
  return element;
}

/// Sets a text where it has changed, so that nothing is read out twice.
export function say(id, text) {
  const element = find(id);
  if (element.textContent !== text) element.textContent = text;
}

/// Why what is stored is not fit to trade on. Pure.
export function unready({ why, pairs }) {
  if (why.length) return why.join("; ");
  const [stale, all] = [pairs.filter((told) => !told.fresh), pairs].map((list) => new Set(list.map((told) => told.pair)).size);
  return `${stale} of ${counted(all, "pair")} ${stale === 1 ? "lacks its" : "lack their"} newest bar`;
}

/// How the whole stands, by which the page's colours and its first line go. Pure.
export function standing(status, health, live, away) {
  const stream = status?.stream;
  if (health?.status === "stuck") return ["stuck", "✕", "Stuck", `no progress: ${health.stuck.map(spelled).join(", ")}`];
  if (health?.status === "starting") return ["starting", "◌", "Starting", health?.at ?? ""];
  if (away) return ["silent", "▲", "Database away", away.message];
  if (status.lease && !status.lease.alive) return ["silent", "▲", "Not collecting", "no service holds this database"];
  if (stream && stream.phase !== "streaming") {
    return ["silent", "▲", "Not streaming", [spelled(stream.phase), stream.cause].filter(Boolean).join(": ")];
  }
  if (status.market.state === "closed") {
    return ["closed", "◑", "Market closed", status.market.opens ? `opens ${weekday(status.market.opens)} UTC` : ""];
  }
  if (!status.pairs.some((pair) => pair.last_timestamp !== null)) return ["empty", "◌", "No bars yet", "the first comes when a bucket has ended"];
  if (!status.readiness.ready) return ["unready", "▲", "Not fit to trade on", unready(status.readiness)];
  if (live === "failed") return ["silent", "▲", "Bars do not come", "they are asked for again and again"];
  return live === "open"
    ? ["live", "●", "Live", "bars appear as they are stored"]
    : ["live", "●", "Live", "bars are asked for every few seconds"];
}

/// The first line: a word for scripts and styles, a mark, a word, and more.
export function state([word, mark, text, more]) {
  document.documentElement.dataset.state = word;
  say("state-mark", mark);
  say("state-word", text);
  say("state-more", more);
  document.title = `${text} · candlekeep`;
}

/// What went wrong, for as long as it does.
export function tell(lines) {
  const told = find("told");
  const text = lines.join("\n");
  if (told.dataset.text === text) return;
  told.dataset.text = text;
  told.replaceChildren(...lines.map((line) => make("p", line)));
}

function list(id, rows) {
  find(id).replaceChildren(...rows.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .flatMap(([name, value]) => [make("dt", name), make("dd", String(value))]));
}

/// The stream, and what else connects the service with the world.
export function stream(status) {
  const { stream: told, market, breaks, waiting, trouble } = status;
  const refused = Object.entries(told?.refused ?? {}).map(([pair, why]) => `${pairName(pair)} (${typeof why === "string" ? why : why.why ?? JSON.stringify(why)})`);
  const last = breaks.at(0);
  list("stream", [
    ["Stream", told ? [spelled(told.phase), told.cause].filter(Boolean).join(": ") : "nothing is known of it"],
    ["Since", told?.since ? `${moment(told.since)} UTC` : null],
    ["By", told ? [told.transport, told.version && `TLCP ${told.version}`].filter(Boolean).join(", ") : null],
    ["Refused", refused.join(", ")],
    ["Market", market.state === "open" ? `open${market.closes ? `, closes ${weekday(market.closes)}` : ""}` : `${spelled(market.state)}${market.opens ? `, opens ${weekday(market.opens)}` : ""}`],
    ["Last break", last ? `${stretch(last.from, last.to)}, ${pairName(last.pair)}: ${spelled(last.cause)}` : "none"],
    ["To heal", waiting.buckets ? counted(waiting.buckets, "bucket") : "nothing"],
    ["Trouble", trouble ? `${trouble.what}, since ${moment(trouble.since)}` : null],
    ["Spool", status.spool?.facts ? `${counted(status.spool.facts, "fact")} wait for the database` : null],
    ["Standby", status.standbys.length ? counted(status.standbys.length, "process", "processes") : null],
  ]);
}

/// The gauge of points.
export function allowance({ total, remaining, reserve, renews_at: renews, refused }) {
  const [left, meter] = [find("allowance-left"), find("allowance")];
  const isKnown = remaining !== null && remaining !== undefined;
  meter.hidden = !isKnown;
  if (!isKnown) {
    left.textContent = "not known yet";
    say("allowance-more", "IG tells it with the first answer.");
    return;
  }
  Object.assign(meter, { max: total ?? remaining, low: reserve, optimum: total ?? remaining, value: remaining });
  say("allowance-left", `${remaining.toLocaleString("en-GB")} ${total ? `of ${total.toLocaleString("en-GB")} ` : ""}points`);
  meter.textContent = left.textContent;
  say("allowance-more", [
    `${reserve.toLocaleString("en-GB")} are kept for new holes.`,
    renews ? `All are back by ${moment(renews)} UTC.` : "",
    refused ? "IG says that it is spent." : "",
  ].filter(Boolean).join(" "));
}

/// The actors. A state that asks for attention is marked by more than its colour.
export function rooms(health) {
  const mark = { running: "●", resting: "●", stuck: "✕" };
  find("rooms-rows").replaceChildren(...health.rooms.map((room) => make("tr", [
    make("th", room.name, { scope: "row" }),
    make("td", [make("span", `${mark[room.state] ?? "▲"} `, { "aria-hidden": "true" }), spelled(room.state)], { class: `room-${room.state}` }),
    make("td", String(room.restarts), { class: room.restarts ? "number some" : "number" }),
  ])));
  say("service", `Process ${health.pid}, version ${health.version}: ${health.at ?? ""}`);
}

/// A row of the table for every pair. `strips` has what was drawn for each.
export function pairs(status, chosen, strips, choose) {
  const rows = find("pairs-rows");
  // The shortest bars come first.
  const owed = new Map(status.readiness.pairs.filter((told) => !told.fresh).reverse().map((told) => [told.pair, `${told.timeframe} minutes, ${told.why}`]));
  for (const told of status.pairs) {
    let row = rows.querySelector(`[data-pair="${CSS.escape(told.pair)}"]`);
    if (!row) {
      const button = make("button", pairName(told.pair), { type: "button" });
      button.addEventListener("click", () => choose(told.pair));
      row = make("tr", [make("th", button, { scope: "row" }), make("td", [], { class: "wide" }), make("td", [], { class: "number" }), make("td", [], { class: "number" }), make("td", [], { class: "strip" })], { "data-pair": told.pair });
      rows.append(row);
    }
    const [name, last, age, missing, strip] = row.children;
    name.firstChild.setAttribute("aria-pressed", String(told.pair === chosen));
    row.classList.toggle("chosen", told.pair === chosen);
    const set = (cell, text) => { if (cell.textContent !== text) cell.textContent = text; };
    set(last, told.last_timestamp === null ? "none" : moment(told.last_timestamp));
    const [old, why] = [told.age_s === null ? "–" : length(told.age_s), owed.get(told.pair)];
    if (age.textContent !== (why ? `▲ ${old} ${why}` : old)) age.replaceChildren(...(why ? [`▲ ${old}`, make("span", ` ${why}`, { class: "unseen" })] : [old]));
    age.title = why ?? "";
    age.classList.toggle("some", Boolean(why));
    set(missing, told.missing === null ? "–" : told.missing ? `▲ ${told.missing.toLocaleString("en-GB")}` : "0");
    missing.classList.toggle("some", Boolean(told.missing));
    const drawn = strips.get(told.pair);
    if (drawn && strip.firstChild !== drawn) strip.replaceChildren(drawn);
  }
}

/// The newest bar in words, and the latest few in numbers.
export function bars(shown, pair, timeframe, rowsMax) {
  const last = shown.at(-1);
  const price = (value) => value.toFixed(decimals(pair));
  say("last", last ? price(last.close) : "");
  if (last) {
    const rest = ` closed ${moment(last.time + Number(timeframe) * 60)} UTC · open ${price(last.open)} high ${price(last.high)} low ${price(last.low)} · ${counted(last.volume, "tick")} · ${spelled(last.source)}${last.revision ? ` · revision ${last.revision}` : ""}`;
    find("last").append(make("small", rest));
  }
  find("numbers-rows").replaceChildren(...shown.slice(-rowsMax).reverse().map((bar) => make("tr", [
    make("th", moment(bar.time), { scope: "row" }),
    ...[...[bar.open, bar.high, bar.low, bar.close].map(price), String(bar.volume), spelled(bar.source)].map((value) => make("td", value)),
  ])));
}

/// What a stretch lacks, newest first.
export function gaps(runs, listedMax) {
  const holes = runs.filter((run) => ["missing", "lost", "quiet"].includes(run.state)).reverse();
  const items = holes.slice(0, listedMax).map((run) => make("li", [make("b", run.state), ` ${stretch(run.from, run.to)} UTC: ${spelled(run.reason)}`], { "data-state": run.state }));
  if (holes.length > listedMax) items.push(make("li", `and ${holes.length - listedMax} more; /v1/coverage has them all`));
  if (!holes.length) items.push(make("li", "Nothing: every bucket is stored, or the market was closed."));
  find("gaps").replaceChildren(...items);
}

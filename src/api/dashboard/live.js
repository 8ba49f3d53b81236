// Follows `/v1/stream`: every bar once, across breaks of the connection.

import { Gone, Refused, send } from "/assets/api.js";
import { Events } from "/assets/events.js";

/// Pauses between attempts, milliseconds: doubled from the first to the last.
export const PAUSE_FIRST = 1_000;
export const PAUSE_LAST = 15_000;
/// Silence after which a connection is given up, milliseconds; keepalives come far more often.
const SILENCE_MAX = 60_000;

/// Follows the events of a question from a seq on, or from now on where there is none, until told to stop.
/// `told(event, data)` has each event, `stands(word, why)` how the connection does (`open`, `broken` or `refused`), and
/// `begins(seq)`, where no seq was given, after which one it has all.
export function follow(question, after, { told, stands, begins }) {
  const stop = new AbortController();
  run(question, after, { told, stands, begins }, stop.signal);
  return () => stop.abort();
}

async function run(question, after, { told, stands, begins }, stopped) {
  let pause = PAUSE_FIRST;
  const hears = (events, id) => {
    for (const event of events) {
      // One that has to begin anew has led nowhere.
      if (event.event !== "reset") pause = PAUSE_FIRST;
      // Whoever hears it may have had enough.
      if (!stopped.aborted) told(event.event, JSON.parse(event.data));
    }
    // Words without an event have ids too.
    if (!id || stopped.aborted) return;
    const isFirst = after === undefined;
    after = Number(id);
    if (isFirst) begins(after);
  };
  while (!stopped.aborted) {
    try {
      await once(question, after, stopped, () => stands("open"), hears);
      if (!stopped.aborted) stands("broken", "the stream of events ended");
    } catch (error) {
      if (stopped.aborted) return;
      if (!(error instanceof Refused || error instanceof Gone || error instanceof SyntaxError)) console.error(error);
      stands(error instanceof Refused ? "refused" : "broken", error.message);
    }
    await new Promise((go) => setTimeout(go, pause * (0.75 + Math.random() / 2)));
    pause = Math.min(pause * 2, PAUSE_LAST);
  }
}

/// One connection, from its beginning to its end.
async function once(question, after, stopped, opened, hears) {
  let [ended, silence] = [new AbortController(), null];
  const end = () => ended.abort();
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(end, SILENCE_MAX);
  };
  const begin = () => {
    ended = new AbortController();
    if (stopped.aborted) end();
    heard();
    return ended.signal;
  };
  stopped.addEventListener("abort", end);
  try {
    const asked = new URLSearchParams(question);
    if (after !== undefined) asked.set("after", after);
    const answer = await send(`/v1/stream?${asked}`, begin, { cache: "no-store" });
    if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => null));
    opened();
    const [events, reader] = [new Events(), answer.body.pipeThrough(new TextDecoderStream()).getReader()];
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      hears(events.feed(value), events.lastId);
    }
  } catch (error) {
    // What breaks while it is read is no error of the page's.
    if (error instanceof TypeError || error.name === "AbortError") throw new Gone("the stream of events broke off");
    throw error;
  } finally {
    clearTimeout(silence);
    stopped.removeEventListener("abort", end);
    end();
  }
}

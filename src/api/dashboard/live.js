// Follows `/v1/stream`: every bar once, across breaks of the connection.

import { Gone, Refused, send } from "/assets/api.js";
import { Events } from "/assets/events.js";

/// Pauses between attempts, milliseconds: doubled from the first to the last.
export const PAUSE_FIRST = 1_000;
export const PAUSE_LAST = 15_000;
/// Silence after which a connection is given up, milliseconds; keepalives come far more often.
const SILENCE_MAX = 60_000;

/// Follows the events of a question from a seq on, until told to stop. `told(event, data)` has each event, and
/// `stands(word, why)` how the connection does: `open`, `broken` or `refused`.
export function follow(question, after, told, stands) {
  const stop = new AbortController();
  run(question, after, told, stands, stop.signal);
  return () => stop.abort();
}

async function run(question, after, told, stands, stopped) {
  let pause = PAUSE_FIRST;
  while (!stopped.aborted) {
    try {
      await once(question, after, stopped, () => stands("open"), (event) => {
        pause = PAUSE_FIRST;
        if (event.id) after = event.id;
        const data = JSON.parse(event.data);
        if (event.event === "reset" && data.seq !== undefined) after = data.seq;
        told(event.event, data);
      });
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
async function once(question, after, stopped, opened, told) {
  const ended = new AbortController();
  const end = () => ended.abort();
  stopped.addEventListener("abort", end);
  let silence;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(end, SILENCE_MAX);
  };
  heard();
  try {
    const asked = new URLSearchParams(question);
    if (after !== undefined && after !== null) asked.set("after", after);
    const answer = await send(`/v1/stream?${asked}`, { signal: ended.signal, cache: "no-store" });
    if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => null));
    opened();
    const [events, reader] = [new Events(), answer.body.pipeThrough(new TextDecoderStream()).getReader()];
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      events.feed(value).forEach(told);
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

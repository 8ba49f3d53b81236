// Asks the service. Its errors are passed on as it words them.

const TOKEN_KEY = "candlekeep.token";
/// After this time a question is given up, milliseconds.
const ANSWER_WITHIN = 15_000;

/// The service has answered, and refuses.
export class Refused extends Error {
  constructor(status, body) {
    super(body?.reason ?? `the service answers with HTTP status ${status}`);
    this.status = status;
    this.word = body?.error ?? "";
  }
}

/// The service does not answer.
export class Gone extends Error {}

/// Asks for a token; set by the page. Resolves when there is one.
let askForToken = async () => {};
export function whenTokenNeeded(ask) {
  askForToken = ask;
}

let asking = null;
/// Everybody who is refused waits for the same token.
export function token(reason) {
  asking ??= askForToken(reason).then((text) => sessionStorage.setItem(TOKEN_KEY, text)).finally(() => (asking = null));
  return asking;
}

/// A request with the token, where there is one. `signal()` makes what ends it, for each attempt: a token takes its time.
export async function send(path, signal, options = {}) {
  for (;;) {
    const known = sessionStorage.getItem(TOKEN_KEY);
    const headers = known ? { Authorization: `Bearer ${known}` } : {};
    const ends = signal();
    let answer;
    try {
      answer = await fetch(path, { ...options, signal: ends, headers, credentials: "omit" });
    } catch (error) {
      if (ends.aborted && ends.reason?.name !== "TimeoutError") throw error;
      throw new Gone("the service does not answer");
    }
    if (answer.status !== 401) return answer;
    const { reason } = await answer.json();
    // Another question may have been answered meanwhile.
    if (known === sessionStorage.getItem(TOKEN_KEY)) await token(known ? `It was not this one. ${reason}` : reason);
  }
}

/// The JSON at a path. `also` are statuses that are answers, and not errors.
export async function ask(path, also = []) {
  const answer = await send(path, () => AbortSignal.timeout(ANSWER_WITHIN));
  let body = null;
  try {
    body = await answer.json();
  } catch (error) {
    if (answer.ok) throw new Gone("the service broke off its answer");
  }
  if (!answer.ok && !also.includes(answer.status)) throw new Refused(answer.status, body);
  return body;
}

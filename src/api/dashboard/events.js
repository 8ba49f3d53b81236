// Server-sent events out of text in any pieces. `EventSource` cannot present a token, so the page reads them itself.
// Nothing here touches the page or the network.

/// Characters of an event that is not complete yet.
const PENDING_MAX = 1 << 20;

/// Reads events, as the HTML standard has them.
export class Events {
  #pending = "";
  #event = "";
  #data = [];
  #id = "";
  /// The id up to which all has been told, by a block without data too; empty where none had one.
  lastId = "";

  /// The events that this piece completes: `{event, data, id}`.
  feed(text) {
    const told = [];
    this.#pending += text;
    for (;;) {
      // A carriage return at the very end may be half of an end of line.
      const end = this.#pending.match(/\r\n|\n|\r(?!$)/);
      if (!end) break;
      const line = this.#pending.slice(0, end.index);
      this.#pending = this.#pending.slice(end.index + end[0].length);
      const event = this.#line(line);
      if (event) told.push(event);
    }
    const held = this.#pending.length + this.#data.reduce((sum, line) => sum + line.length, 0);
    if (held > PENDING_MAX) throw new Error("an event without end");
    return told;
  }

  #line(line) {
    if (line === "") {
      this.lastId = this.#id;
      const event = this.#data.length && { event: this.#event || "message", data: this.#data.join("\n"), id: this.lastId };
      [this.#event, this.#data] = ["", []];
      return event;
    }
    if (line.startsWith(":")) return null;
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.#event = value;
    else if (name === "data") this.#data.push(value);
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    return null;
  }
}

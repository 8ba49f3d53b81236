// The program under test, and the simulator in the place of IG.

import { spawn } from "node:child_process";
import { mkdtempSync, openSync, readFileSync, renameSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { until } from "./browser.mjs";

/// A port that nobody has.
async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((go) => server.once("listening", go));
  const { port } = server.address();
  await new Promise((go) => server.close(go));
  return port;
}

/// A folder, a database in it, and two addresses that stay the same when processes come and go.
export class World {
  #running = new Map();

  static async make(binary, variables = {}) {
    const world = new World();
    [world.binary, world.home] = [binary, mkdtempSync(join(tmpdir(), "candlekeep-page-"))];
    [world.market, world.http] = [await freePort(), await freePort()];
    world.url = `http://127.0.0.1:${world.http}`;
    // Nothing of who runs this comes in.
    world.variables = {
      PATH: process.env.PATH, HOME: world.home, RUST_LOG: "info", DATABASE_URL: `sqlite:///${world.home}/bars.db`,
      IG_API_URL: `http://127.0.0.1:${world.market}/gateway/deal`, IG_API_KEY: "key", IG_USERNAME: "user", IG_PASSWORD: "password",
      CANDLEKEEP_CLOCK: "stream", CANDLEKEEP_HTTP: `127.0.0.1:${world.http}`, CANDLEKEEP_SESSION_LOGIN_SPACING_S: "1",
      ...variables,
    };
    return world;
  }

  #start(name, args) {
    const log = join(this.home, `${name}.log`);
    const file = openSync(log, "a");
    const child = spawn(this.binary, args, { cwd: this.home, env: this.variables, stdio: ["ignore", file, file] });
    this.#running.set(name, { child, log });
  }

  /// A market from a time on, at a pace of market seconds a second.
  simulate(from, speed, ...more) {
    this.#start("simulator", ["simulate", "--listen", `127.0.0.1:${this.market}`, "--from", from, "--speed", String(speed), "--rows-per-bar", "20", ...more]);
  }

  /// The service, until it answers.
  async run() {
    this.#start("service", ["run"]);
    await until("the service serves HTTP", () => fetch(`${this.url}/`).then((answer) => answer.ok, () => false));
  }

  /// The database is away, or there again.
  isAway(away) {
    const names = [join(this.home, "bars.db"), join(this.home, "bars.db.away")];
    renameSync(...(away ? names : names.reverse()));
  }

  /// The demonstration, which has its own simulator; from its dashboard's address on the world is there.
  async demo() {
    this.#start("service", ["demo"]);
    this.url = await until("the demonstration names its dashboard", () => /^Dashboard (http:\S+)\/$/m.exec(this.said("service"))?.[1]);
  }

  /// Ends a process as told, and waits for its end.
  async end(name, signal = "SIGTERM") {
    const running = this.#running.get(name);
    if (!running) return;
    this.#running.delete(name);
    const { child } = running;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((go) => child.once("exit", go));
    child.kill(signal);
    await gone;
  }

  /// What a process has said.
  said(name) {
    try {
      return readFileSync(join(this.home, `${name}.log`), "utf8");
    } catch {
      return "";
    }
  }

  async close() {
    await this.end("service");
    await this.end("simulator", "SIGKILL");
    rmSync(this.home, { recursive: true, force: true });
  }
}

// Chromium without a window, told what to do over its DevTools protocol, by a pipe.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/// Time for anything that is waited for, milliseconds: longer than any pause of the page's.
const PATIENCE = 60_000;
const LOOK_EVERY = 100;

/// Waits until something is true of the world. Fails with what was there instead.
export async function until(what, look, patience = PATIENCE) {
  const end = Date.now() + patience;
  for (;;) {
    const seen = await look();
    if (seen) return seen;
    if (Date.now() > end) throw new Error(`not within ${patience / 1000} s: ${what}`);
    await new Promise((go) => setTimeout(go, LOOK_EVERY));
  }
}

/// A browser; it ends with `end`.
export class Browser {
  #waiting = new Map();
  #heard = [];
  #next = 1;

  static async start() {
    const browser = new Browser();
    browser.home = mkdtempSync(join(tmpdir(), "candlekeep-browser-"));
    const args = ["--headless=new", "--remote-debugging-pipe", `--user-data-dir=${browser.home}`, "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage",
      "--hide-scrollbars", "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--force-color-profile=srgb", "--no-sandbox"];
    browser.process = spawn(process.env.CHROMIUM ?? "chromium", [...args, "about:blank"], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    browser.process.on("error", (error) => { throw error; });
    let pending = "";
    browser.process.stdio[4].setEncoding("utf8").on("data", (text) => {
      const messages = (pending + text).split("\0");
      pending = messages.pop();
      messages.forEach((message) => browser.#take(JSON.parse(message)));
    });
    return browser;
  }

  #take(message) {
    if (message.id) {
      const { done, failed } = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      return message.error ? failed(new Error(message.error.message)) : done(message.result);
    }
    this.#heard.forEach((hear) => hear(message));
  }

  say(method, params = {}, sessionId) {
    const id = this.#next++;
    return new Promise((done, failed) => {
      this.#waiting.set(id, { done, failed });
      this.process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    });
  }

  hear(hear) {
    this.#heard.push(hear);
  }

  /// A page of its own, with nothing kept from another; or a tab in front of another page's, in the same window.
  async page(options, beside) {
    const { browserContextId } = beside ?? (await this.say("Target.createBrowserContext"));
    const { targetId } = await this.say("Target.createTarget", { url: "about:blank", browserContextId });
    const { sessionId } = await this.say("Target.attachToTarget", { targetId, flatten: true });
    const page = Object.assign(new Page(this, sessionId), { browserContextId, targetId });
    await page.begin(options);
    return page;
  }

  async end() {
    const gone = new Promise((go) => this.process.on("exit", go));
    await this.say("Browser.close").catch(() => {});
    await gone;
    rmSync(this.home, { recursive: true, force: true, maxRetries: 5 });
  }
}

/// A page, and everything that goes wrong on it.
export class Page {
  /// Errors of scripts and of the console, violations of the policy among them.
  errors = [];
  /// Every address that something was asked of.
  asked = [];

  constructor(browser, session) {
    [this.browser, this.session] = [browser, session];
  }

  say(method, params) {
    return this.browser.say(method, params, this.session);
  }

  async begin({ width = 1280, height = 900, mobile = false, scheme = "light" } = {}) {
    this.browser.hear(({ method, params, sessionId }) => {
      if (sessionId !== this.session) return;
      if (method === "Runtime.exceptionThrown") this.errors.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
      if (method === "Runtime.consoleAPICalled" && ["error", "warning", "assert"].includes(params.type)) this.errors.push(params.args.map((arg) => arg.value ?? arg.description).join(" "));
      if (method === "Log.entryAdded" && ["error", "warning"].includes(params.entry.level)) this.errors.push(`${params.entry.text} ${params.entry.url ?? ""}`);
      if (method === "Audits.issueAdded" && params.issue.code === "ContentSecurityPolicyIssue") this.errors.push(`policy: ${JSON.stringify(params.issue.details.contentSecurityPolicyIssueDetails)}`);
      if (method === "Network.requestWillBeSent") this.asked.push(params.request.url);
    });
    for (const domain of ["Page", "Runtime", "Log", "Network", "Audits"]) await this.say(`${domain}.enable`);
    await this.view({ width, height, mobile, scheme });
  }

  async view({ width, height, mobile = false, scheme = "light" }) {
    await this.say("Emulation.setDeviceMetricsOverride", { width, height, mobile, deviceScaleFactor: mobile ? 2 : 1 });
    await this.say("Emulation.setTouchEmulationEnabled", { enabled: mobile });
    await this.say("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
  }

  /// Runs a script before those of every page that is opened.
  async prepare(script) {
    await this.say("Page.addScriptToEvaluateOnNewDocument", { source: script });
  }

  async open(url) {
    await this.say("Page.navigate", { url });
  }

  async toFront() {
    await this.say("Page.bringToFront");
  }

  async close() {
    await this.browser.say("Target.closeTarget", { targetId: this.targetId });
  }

  /// Has nothing come from addresses that contain this; from all of them again without it.
  async block(part) {
    await this.say("Network.setBlockedURLs", { urls: part ? [`*${part}*`] : [] });
  }

  /// What an expression is worth on the page.
  async ask(expression) {
    const { result, exceptionDetails } = await this.say("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`);
    return result.value;
  }

  /// Waits until an expression is true there.
  async until(expression, patience) {
    try {
      return await until(expression, () => this.ask(expression), patience);
    } catch (error) {
      const seen = await this.ask("document.body.innerText.slice(0, 3000)");
      throw new Error(`${error.message}\nThe page says:\n${seen}\nErrors: ${this.errors.join("\n")}`);
    }
  }

  /// Presses keys, as a keyboard does.
  async press(key, code = key, text) {
    for (const type of ["keyDown", "keyUp"]) await this.say("Input.dispatchKeyEvent", { type, key, code, text: type === "keyDown" ? text : undefined, windowsVirtualKeyCode: { Tab: 9, Enter: 13 }[key] });
  }

  async type(text) {
    await this.say("Input.insertText", { text });
  }

  /// What is seen, or the whole page, as a file whose name says the format: `png` or `webp`.
  async picture(file, whole = true) {
    const format = file.split(".").at(-1);
    const { data } = await this.say("Page.captureScreenshot", { format, captureBeyondViewport: whole, ...(format === "webp" && { quality: 80 }) });
    writeFileSync(file, Buffer.from(data, "base64"));
  }
}

// A Chromium for tests: node browser.mjs NODE_MODULES CHROMIUM. Each line in is a call [method, ...arguments] of
// playwright's page ("keyboard.press" too) or of what is below; each line out is {value} or {error}.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import path from "node:path";

const [modules, executablePath] = process.argv.slice(2);
const { chromium } = createRequire(path.join(modules, "/"))("playwright-core");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
let context, page, seen;

const ours = {
  /** A new page; what its console says, and what it asks for, is written down. */
  async open(options) {
    await context?.close();
    context = await browser.newContext(options);
    page = await context.newPage();
    page.setDefaultTimeout(20_000);
    seen = { console: [], requests: [] };
    page.on("console", (message) => seen.console.push(`${message.type()}: ${message.text()}`));
    page.on("pageerror", (error) => seen.console.push(`error: ${error.message}`));
    page.on("request", (request) => seen.requests.push(request.url()));
  },
  seen: () => seen,
  /** Answer requests to `host` with the files of a folder, of the same names, or with what the last argument says. */
  answer: (host, folder, answer = {}) =>
    context.route(`${host}/**`, (route) => {
      const name = path.basename(new URL(route.request().url()).pathname);
      const headers = { "access-control-allow-origin": "*" };
      return route.fulfill({ headers, path: path.join(folder, name), ...answer });
    }),
  /** Wait until an expression holds; playwright's own way is eval, which the page's policy forbids. */
  async until(expression) {
    for (const began = Date.now(); !(await page.evaluate(expression)); await page.waitForTimeout(10)) {
      if (Date.now() - began > 20_000) throw new Error(`${expression}: not after 20 seconds; ${JSON.stringify(seen)}`);
    }
  },
  async download(selector) {
    const [download] = await Promise.all([page.waitForEvent("download"), page.click(selector)]);
    return { name: download.suggestedFilename(), path: await download.path() };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [method, ...given] = JSON.parse(line);
  let answer;
  try {
    const [name, owner] = method.split(".").reverse();
    const value = await (ours[method] ? ours[method](...given) : (owner ? page[owner] : page)[name](...given));
    const plain = value === undefined || value === null || ["goto", "reload"].includes(name) ? null : value;
    answer = { value: Buffer.isBuffer(plain) ? null : plain };
  } catch (error) {
    answer = { error: `${method}: ${error.message}` };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();

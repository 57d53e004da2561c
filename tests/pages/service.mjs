// The service under test and a real browser in front of it. Where they are stands in the environment.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";

function env(name) {
  const value = process.env[name];
  assert(value, `${name} not set: run \`make test\`, which starts a service for these tests`);
  return value;
}

// The settings of whoever runs this must not decide what is tested.
for (const name of Object.keys(process.env)) {
  if (/^anthropic_|_proxy$/i.test(name)) delete process.env[name];
}
// The packages are not installed among the sources.
const installed = (path) => import(pathToFileURL(`${env("TEST_NODE_MODULES")}/${path}`));
const { default: Anthropic } = await installed("@anthropic-ai/sdk/index.mjs");
const { chromium } = await installed("playwright-core/index.mjs");

export const SERVICE = env("PAGES_SERVICE");
export const PROVIDER = env("PAGES_PROVIDER");
// What the service calls it.
export const PROVIDER_NAME = env("PAGES_PROVIDER_NAME");
export const PROGRAM = env("PAGES_PROGRAM");
// For screenshots, and for what is gone afterwards.
export const SHOWN = env("PAGES_SHOWN");
export const FOLDER = env("PAGES_FOLDER");

export const DEVELOPER = "developer@example.com";

const FLAGS = [
  "--no-sandbox", // it refuses to run as root with one; it sees nothing but this machine
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
  "--no-proxy-server",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

let browser;
before(
  async () => {
    // Headless, with a profile of its own that is removed in the end.
    browser = await chromium.launch({ executablePath: env("TEST_CHROMIUM"), args: FLAGS, timeout: 60_000 });
  },
  { timeout: 90_000 },
);
after(() => browser?.close(), { timeout: 30_000 });

// A test with browsers of its own, bounded in time. `open` gives it the page of another person's browser.
export function journey(name, body) {
  test(name, { timeout: 120_000 }, async () => {
    const opened = [];
    const open = async (options = {}) => {
      // The service under test made its certificate itself.
      const context = await browser.newContext({ ignoreHTTPSErrors: true, ...options });
      opened.push(context);
      context.setDefaultTimeout(30_000);
      const page = await context.newPage();
      page.complaints = [];
      page.seen = [];
      watch(page);
      return page;
    };
    try {
      await body(open);
    } finally {
      await Promise.all(opened.map((context) => context.close()));
    }
  });
}

// Notes what a page complains of (violations of its policy among that), and every address that it asks for.
function watch(page) {
  const complain = (what) => page.complaints.push(`${page.url().split("?")[0]}: ${what}`);
  page.on("console", (message) => {
    // That an error page has the status of an error is no complaint.
    const status = /^Failed to load resource: the server responded with a status of [45]/.test(message.text());
    const itself = message.location().url === page.url();
    if (["error", "warning"].includes(message.type()) && !(status && itself)) complain(message.text());
  });
  page.on("pageerror", (error) => complain(error));
  page.on("dialog", (dialog) => {
    complain(`dialog ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on("request", (request) => page.seen.push(request.url()));
}

export function quiet(...pages) {
  for (const page of pages) assert.deepEqual(page.complaints, []);
}

// From our sign-in page to the provider and back, as one of its people.
export async function signIn(page, { as = DEVELOPER, fault = "", to = "/" } = {}) {
  await page.getByRole("link", { name: /^Sign in with / }).click();
  await page.waitForURL((url) => url.origin === PROVIDER);
  if (fault) {
    await page.getByText("Misbehave in this sign-in").click();
    await page.getByLabel("What goes wrong").selectOption(fault);
  }
  await page.getByRole("button", { name: as }).click();
  await page.waitForURL((url) => url.origin === SERVICE);
  if (to) assert.equal(page.url(), SERVICE + to);
}

// A browser in which somebody is signed in.
export async function signedIn(open, { options, ...how } = {}) {
  const page = await open(options);
  await page.goto(`${SERVICE}/`);
  await signIn(page, how);
  return page;
}

// What a script of the page does: its status, and what came back.
export function api(page, method, path, body) {
  const ask = async ({ method, path, body }) => {
    const csrf = document.querySelector("meta[name=csrf-token]").content;
    const headers = { "X-CSRF-Token": csrf, ...(body && { "Content-Type": "application/json" }) };
    const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    const text = await answer.text();
    return { status: answer.status, body: text && JSON.parse(text) };
  };
  return page.evaluate(ask, { method, path, body });
}

// The text of Claude's answer, by the official client, with a key or a token.
export async function ask(credential) {
  const client = new Anthropic({
    baseURL: `${SERVICE}/anthropic`,
    apiKey: null,
    authToken: credential,
    maxRetries: 0,
    timeout: 30_000,
  });
  const messages = [{ role: "user", content: "Hello" }];
  const reply = await client.messages.create({ model: "claude-opus-4-8", max_tokens: 100, messages });
  return reply.content.map((block) => block.text).join("");
}

export async function works(credential) {
  assert.match(await ask(credential), /^This is a simulated reply/);
}

export async function isRefused(credential) {
  await assert.rejects(ask(credential), { status: 401 });
}

// What a program sends: a form.
export async function post(path, fields = {}, headers = {}) {
  const answer = await fetch(`${SERVICE}${path}`, {
    method: "POST",
    headers,
    body: new URLSearchParams(fields),
    signal: AbortSignal.timeout(15_000),
  });
  return { status: answer.status, body: await answer.json() };
}

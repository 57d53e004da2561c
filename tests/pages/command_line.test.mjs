// `bedrock_proxy login`, `token` and `logout`, with a browser that a person has open.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdir, mkdtemp, readFile, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:http";

import { DEVELOPER, FOLDER, PROGRAM, SERVICE, isRefused, journey, quiet, signIn, works } from "./service.mjs";

// A home with nothing in it, and the program in it.
async function home() {
  const folder = await mkdtemp(`${FOLDER}/home-`);
  const file = `${folder}/kept/tokens.json`;
  await mkdir(`${folder}/kept`, { mode: 0o700 });
  return { file, run: (...given) => run({ HOME: folder, BEDROCK_PROXY_TOKENS: file }, given) };
}

// Starts the program. `said` is what it has printed so far, `ended` what it came to.
function run(env, given) {
  const child = spawn(PROGRAM, given, { env, stdio: ["ignore", "pipe", "pipe"], timeout: 60_000, killSignal: "SIGKILL" });
  const said = { out: "", err: "" };
  child.stdout.on("data", (piece) => (said.out += piece));
  child.stderr.on("data", (piece) => (said.err += piece));
  const ended = new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, out: said.out.trim(), err: said.err.trim() }));
  });
  const address = new Promise((resolve, reject) => {
    child.stdout.on("data", () => {
      const found = /^ +(http\S+)\n/m.exec(said.out);
      if (found) resolve(found[1]);
    });
    ended.then((end) => reject(new Error(`it ended: ${JSON.stringify(end)}`)), reject);
  });
  address.catch(() => {}); // not all who run it want one
  return { address, ended, stop: () => child.kill("SIGKILL") };
}

function succeeded({ code, out, err }) {
  assert.deepEqual({ code, err }, { code: 0, err: "" });
  return out;
}

// Signs a program in, through whatever the person does in `decide`.
async function login({ run }, page, decide) {
  const program = run("login", SERVICE, "--no-browser", "--timeout", "60");
  try {
    const address = await program.address;
    await page.goto(address);
    if (new URL(page.url()).pathname === "/login") await signIn(page, { to: address.slice(SERVICE.length) });
    await decide(page);
    return await program.ended;
  } finally {
    program.stop();
  }
}

async function allow(page) {
  const shown = await page.getByRole("main").innerText();
  assert(shown.includes(DEVELOPER) && shown.includes("port"), shown);
  await page.getByRole("button", { name: "Allow" }).click();
  await page.waitForURL(/^http:\/\/127\.0\.0\.1:\d+\/callback\?/);
  assert.match(await page.locator("body").innerText(), /^You are signed in\./);
}

// The service by another address, which counts what is asked of it.
async function relay() {
  const asked = [];
  const server = createServer(async (request, response) => {
    asked.push(`${request.method} ${request.url}`);
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    const headers = { "Content-Type": request.headers["content-type"] };
    const { authorization } = request.headers;
    if (authorization) headers.Authorization = authorization;
    const given = { method: request.method, headers, body: Buffer.concat(pieces) };
    const answer = await fetch(`${SERVICE}${request.url}`, given);
    response.writeHead(answer.status, { "Content-Type": answer.headers.get("content-type") ?? "" });
    response.end(await answer.text());
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const close = () => {
    server.closeAllConnections();
    return new Promise((closed) => server.close(closed));
  };
  return { asked, url: `http://127.0.0.1:${server.address().port}`, close };
}

journey("the command line signs in, shares one refresh among many, and signs out", async (open) => {
  const [page, place] = [await open(), await home()];
  const said = succeeded(await login(place, page, allow));
  assert(said.includes(`Signed in to ${SERVICE} as ${DEVELOPER}.`) && !/SSO[A-Z]_|eyJ/.test(said), said);
  assert.equal((await stat(place.file)).mode & 0o777, 0o600);
  const first = succeeded(await place.run("token").ended);
  assert.match(first, /^eyJ[\w-]+\.[\w-]+\.[\w-]+$/);
  await works(first);
  assert.equal(succeeded(await place.run("token").ended), first, "the one at hand will do");

  // From now on the file names the relay. The access token is old.
  const counting = await relay();
  try {
    const kept = JSON.parse(await readFile(place.file, "utf8"));
    const tokens = kept.services[SERVICE];
    tokens.access_issued_at = new Date(Date.now() - 7_200_000).toISOString();
    tokens.access_expires_at = new Date(Date.now() - 3_600_000).toISOString();
    await writeFile(place.file, JSON.stringify({ ...kept, services: { [counting.url]: tokens } }));
    const many = Array.from({ length: 20 }, () => place.run("token").ended);
    const printed = new Set((await Promise.all(many)).map(succeeded));
    assert.deepEqual(counting.asked, ["POST /auth/refresh"]);
    assert.equal(printed.size, 1);
    const [second] = printed;
    assert.notEqual(second, first);
    await works(second);

    succeeded(await place.run("logout").ended);
    await isRefused(second);
    await isRefused(first);
  } finally {
    await counting.close();
  }
  assert.deepEqual(JSON.parse(await readFile(place.file, "utf8")).services, {});
  const without = await place.run("token").ended;
  assert.deepEqual([without.code, without.out], [1, ""]);
  assert.match(without.err, /not signed in/);
  quiet(page);
});

journey("without scripts, the person takes the answer to the command line", async (open) => {
  const [page, place] = [await open({ javaScriptEnabled: false }), await home()];
  const decide = async () => {
    await page.getByRole("button", { name: "Allow" }).click();
    await page.getByRole("link", { name: "Go back to the command line" }).click();
    await page.waitForURL(/^http:\/\/127\.0\.0\.1:\d+\/callback\?/);
    assert.match(await page.locator("body").innerText(), /^You are signed in\./);
  };

  succeeded(await login(place, page, decide));

  await works(succeeded(await place.run("token").ended));
  succeeded(await place.run("logout").ended);
  quiet(page);
});

journey("the command line is denied", async (open) => {
  const [page, place] = [await open(), await home()];
  const decide = async () => {
    await page.getByRole("button", { name: "Deny" }).click();
    await page.waitForURL(/^http:\/\/127\.0\.0\.1:\d+\/callback\?/);
    assert.match(await page.locator("body").innerText(), /^The sign-in was refused\./);
  };

  const { code, err } = await login(place, page, decide);

  assert.equal(code, 1);
  assert.match(err, /refused: access_denied/);
  await assert.rejects(stat(place.file));
  quiet(page);
});

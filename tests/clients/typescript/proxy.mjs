// The service under test and the simulated Bedrock behind it, as clients see them. Where they are stands in the
// environment.

import assert from "node:assert/strict";
import { setTimeout as pause } from "node:timers/promises";
import { pathToFileURL } from "node:url";

export function env(name) {
  const value = process.env[name];
  assert(value, `${name} not set: run \`make test\`, which starts a service for these tests`);
  return value;
}

// The settings of whoever runs this must not decide what the SDK does.
for (const name of Object.keys(process.env)) {
  if (/^anthropic_|_proxy$/i.test(name)) delete process.env[name];
}
// The packages are not installed among the sources.
const sdk = await import(pathToFileURL(`${env("TEST_NODE_MODULES")}/@anthropic-ai/sdk/index.mjs`));
export const { Anthropic } = sdk;
export { sdk };

export const KEY = env("PROXY_KEY");
export const REPLY = "This is a simulated reply from Bedrock; no model was called.";

// A client that repeats nothing by itself, unless `options` say so.
export function connect(options = { apiKey: KEY }) {
  const baseURL = `${env("PROXY_URL")}/anthropic`;
  return new Anthropic({ baseURL, maxRetries: 0, timeout: 30_000, logLevel: "error", ...options });
}

// What `find` finds, as soon as it finds it. Usage rows are written in batches.
export async function eventually(find, what, seconds = 10) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const found = await find();
    if (found !== undefined) return found;
    assert(Date.now() < deadline, `${what}: not there after ${seconds} s`);
    await pause(50);
  }
}

async function page(url, options = {}) {
  const answer = await fetch(url, { signal: AbortSignal.timeout(10_000), ...options });
  assert.equal(answer.status, 200, url);
  return answer.json();
}

// Every request that reached the simulated Bedrock, oldest first.
export function ledger() {
  return page(`${env("SIMULATOR_URL")}/_simulator/ledger`);
}

// The request that Bedrock answered with this id, once it is over.
export function arrived(id, seconds = 10) {
  const find = async () => (await ledger()).find((call) => call.request_id === id && call.ended_at);
  return eventually(find, `request ${id} in the ledger`, seconds);
}

// The body of that request. Only the last few are kept.
export function sent(id) {
  return page(`${env("SIMULATOR_URL")}/_simulator/body/${id}`);
}

// All requests with the body of this one, oldest first.
export async function alike(call) {
  return (await ledger()).filter((other) => other.body_sha256 === call.body_sha256);
}

// The usage record of a recent call, once it is written.
function usageRow(what, isIt) {
  const headers = { authorization: `Bearer ${KEY}` };
  const url = `${env("PROXY_URL")}/api/usage/records?limit=50`;
  return eventually(async () => (await page(url, { headers })).records.find(isIt), `usage record of ${what}`);
}

export function rowOf(upstreamId) {
  return usageRow(upstreamId, (row) => row.upstream_request_id === upstreamId);
}

// By the id that the service gave it.
export function ownRow(requestId) {
  return usageRow(requestId, (row) => `req_${row.request_id}` === requestId);
}

// Tokens of a usage record in the ledger's words. Classes that nobody reported count as none.
export function recorded(row) {
  const [written, hour] = [row.cache_write_tokens ?? 0, row.cache_write_1h_tokens ?? 0];
  return {
    input: row.input_tokens,
    output: row.output_tokens ?? 0,
    cache_read: row.cache_read_tokens ?? 0,
    cache_write_5m: written - hour,
    cache_write_1h: hour,
  };
}

// Those that the SDK reports.
export function reported(usage) {
  return {
    input: usage.input_tokens,
    output: usage.output_tokens,
    cache_read: usage.cache_read_input_tokens ?? 0,
    cache_write_5m: usage.cache_creation?.ephemeral_5m_input_tokens ?? 0,
    cache_write_1h: usage.cache_creation?.ephemeral_1h_input_tokens ?? 0,
  };
}

// Anthropic's TypeScript client works against the service as it does against Anthropic.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";

import * as proxy from "./proxy.mjs";
import { KEY, REPLY, connect, env, sdk } from "./proxy.mjs";

const MODEL = "claude-sonnet-4-5";
const MODEL_ID = "us.anthropic.claude-sonnet-4-5-20250929-v1:0";
const NAMES = {
  [MODEL]: MODEL_ID,
  "claude-sonnet-4-5-20250929": MODEL_ID,
  "claude-sonnet-4-5[1m]": MODEL_ID,
  "claude-opus-4-8": "us.anthropic.claude-opus-4-8",
  "us.anthropic.claude-sonnet-4-20250514-v1:0": "us.anthropic.claude-sonnet-4-20250514-v1:0",
};
const LONG = "long ".repeat(1000);
const THOUGHT = "This thought is simulated; no model was called.";
const SPOKEN = `${REPLY} You said: Hi`;
const EPHEMERAL = { cache_control: { type: "ephemeral" } };
// A red pixel.
const PNG =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
// Older models are called on purpose.
console.warn = () => {};

const client = connect();

// A test of its own for each value, bounded in time.
function each(values, name, body) {
  for (const value of values) {
    const shown = typeof value === "string" ? value : JSON.stringify(value);
    test(`${name} (${shown})`, { timeout: 30_000 }, () => body(value));
  }
}

function once(name, body) {
  test(name, { timeout: 30_000 }, body);
}

// A test of its own for each value, whole and streamed.
function eachWay(values, name, body) {
  const ways = values.flatMap((value) => [false, true].map((streamed) => ({ value, streamed })));
  for (const { value, streamed } of ways) {
    const shown = streamed ? "streamed" : "whole";
    test(`${name} (${value}, ${shown})`, { timeout: 30_000 }, () => body(value, streamed));
  }
}

// What every call has.
function ask(text, members = {}) {
  return { model: MODEL, max_tokens: 200, messages: [{ role: "user", content: text }], ...members };
}

function weather(members = {}) {
  const properties = { city: { type: "string" }, days: { type: "integer" } };
  const input_schema = { type: "object", properties, required: ["city"] };
  return { name: "weather", description: "The weather in a city", input_schema, ...members };
}

// The message that answers, and the id that Bedrock gave the call. `api` is `client.messages` or its beta.
async function answered(api, question, streamed = false, options = {}) {
  if (streamed) {
    const stream = api.stream(question, options);
    const message = await stream.finalMessage();
    return { message, headers: stream.response.headers, id: stream.response.headers.get("x-amzn-requestid") };
  }
  const { data, response } = await api.create(question, options).withResponse();
  return { message: data, headers: response.headers, id: response.headers.get("x-amzn-requestid") };
}

// The usage record of an answer, once its tokens are those that the client saw and Bedrock reported.
async function recorded({ message, headers, id }) {
  const [row, call] = [await proxy.rowOf(id), await proxy.arrived(id)];
  assert.deepEqual(proxy.reported(message.usage), call.usage);
  assert.deepEqual(proxy.recorded(row), call.usage);
  assert.equal(row.estimated, false);
  assert.equal(`req_${row.request_id}`, headers.get("request-id"));
  return row;
}

// The error that a call ends in, once it is known to tell its request.
async function refused(kind, call) {
  let raised;
  await assert.rejects(call, (error) => ((raised = error), true));
  assert(raised instanceof kind, `${raised.constructor.name}: ${raised.message}`);
  assert.match(raised.requestID, /^req_/);
  assert.equal(raised.error.request_id, raised.requestID);
  assert.equal(raised.error.type, "error");
  return raised;
}

// All of Bedrock's calls with the body of the one that ended in this error.
async function attemptsOf(error) {
  const row = await proxy.ownRow(error.requestID);
  return proxy.alike(await proxy.arrived(row.upstream_request_id));
}

// Answers

eachWay(Object.keys(NAMES), "every name of a model is answered", async (model, streamed) => {
  const answer = await answered(client.messages, ask("Hi", { model }), streamed);

  const [call, row] = [await proxy.arrived(answer.id), await recorded(answer)];
  assert.equal(answer.message.content[0].text, SPOKEN);
  assert.equal(answer.message.stop_reason, "end_turn");
  assert.equal(call.model_id, NAMES[model]);
  assert.equal(call.operation, streamed ? "invoke-with-response-stream" : "invoke");
  assert.deepEqual([row.endpoint_type, row.model_requested, row.model_id], ["anthropic", model, NAMES[model]]);
  assert.deepEqual([row.streamed, row.outcome, row.stop_reason], [streamed, "success", "end_turn"]);
});

once("the events of a stream come in order", async () => {
  const events = [];
  for await (const event of await client.messages.create(ask("@sim:stream events=5", { stream: true }))) {
    events.push(event.type);
  }

  const deltas = Array(5).fill("content_block_delta");
  const end = ["content_block_stop", "message_delta", "message_stop"];
  assert.deepEqual(events, ["message_start", "content_block_start", ...deltas, ...end]);
});

once("the text of a stream arrives piece by piece", async () => {
  const pieces = [];
  const stream = client.messages.stream(ask("Hi")).on("text", (piece) => pieces.push(piece));

  const message = await stream.finalMessage();

  assert(pieces.length > 5);
  assert.equal(pieces.join(""), SPOKEN);
  assert.equal(message.content[0].text, SPOKEN);
});

once("a tool call is streamed in pieces and its result is taken", async () => {
  const pieces = [];
  const question = ask("@sim:tools", { tools: [weather()] });
  const stream = client.messages.stream(question).on("inputJson", (piece) => pieces.push(piece));
  const call = await stream.finalMessage();
  const use = call.content.at(-1);
  const result = { type: "tool_result", tool_use_id: use.id, content: "12 degrees" };

  const turns = [{ role: "assistant", content: call.content }, { role: "user", content: [result] }];
  const answer = await answered(client.messages, { ...question, messages: [...question.messages, ...turns] });

  const { headers } = stream.response;
  assert.equal(call.stop_reason, "tool_use");
  assert.deepEqual([use.type, use.name, use.input], ["tool_use", "weather", { city: "simulated", days: 1 }]);
  assert(pieces.length > 1);
  assert.deepEqual(JSON.parse(pieces.join("")), use.input);
  await recorded({ message: call, headers, id: headers.get("x-amzn-requestid") });
  assert.equal(answer.message.stop_reason, "end_turn");
  await recorded(answer);
});

const THINKING = {
  "by the parameter": ask("Hi", { thinking: { type: "enabled", budget_tokens: 1024 }, max_tokens: 2048 }),
  "by the model": ask("@sim:thinking"),
};

eachWay(Object.keys(THINKING), "a thought goes back with its signature", async (asked, streamed) => {
  const question = THINKING[asked];

  const first = await answered(client.messages, question, streamed);
  const turns = [{ role: "assistant", content: first.message.content }, { role: "user", content: "And now?" }];
  const second = await answered(client.messages, { ...question, messages: [...question.messages, ...turns] });

  const [thought] = first.message.content;
  assert.deepEqual(first.message.content.map((block) => block.type), ["thinking", "text"]);
  assert.equal(thought.thinking, THOUGHT);
  assert.match(thought.signature, /^simulated/);
  const [returned] = (await proxy.sent(second.id)).messages[1].content;
  assert.deepEqual([returned.thinking, returned.signature], [THOUGHT, thought.signature]);
  await recorded(first);
  await recorded(second);
});

once("the pieces of a thought come before its signature", async () => {
  const heard = [];
  const stream = client.messages.stream(ask("@sim:thinking"));
  stream.on("thinking", (piece) => heard.push(piece)).on("signature", (text) => heard.push(text));

  await stream.done();

  const signature = heard.pop();
  assert.equal(heard.join(""), THOUGHT);
  assert.match(signature, /^simulated/);
});

const TTLS = [{}, { tools: "5m", system: "5m" }, { tools: "1h", system: "1h" }, { tools: "1h", system: "5m" }];

each(TTLS, "a cached prompt is written once and read then", async (ttls) => {
  // Cached prefixes outlive a test, so each has one of its own.
  const cached = (ttl) => ({ cache_control: { type: "ephemeral", ...(ttl && { ttl }) } });
  const tool = weather({ description: `${randomUUID()} ${LONG}`, ...cached(ttls.tools) });
  const prompt = { type: "text", text: `${randomUUID()} ${LONG}`, ...cached(ttls.system) };
  const question = ask("Hi", { tools: [tool], system: [prompt] });

  const written = proxy.recorded(await recorded(await answered(client.messages, question)));
  const read = proxy.recorded(await recorded(await answered(client.messages, question, true)));

  const [minutes, hour] = [written.cache_write_5m, written.cache_write_1h];
  assert.deepEqual([minutes > 1000, hour > 1000], [ttls.system !== "1h", ttls.tools === "1h"]);
  assert.equal(written.cache_read, 0);
  assert.deepEqual(read, { ...written, cache_read: minutes + hour, cache_write_5m: 0, cache_write_1h: 0 });
});

once("an image arrives as it was", async () => {
  const source = { type: "base64", media_type: "image/png", data: PNG };
  const content = [{ type: "image", source }, { type: "text", text: "What is this?" }];

  const answer = await answered(client.messages, ask("", { messages: [{ role: "user", content }] }));

  assert.match(answer.message.content[0].text, /What is this\?$/);
  assert.deepEqual((await proxy.sent(answer.id)).messages[0].content, content);
  await recorded(answer);
});

// Counting

each(["messages", "beta"], "tokens are counted as they are used", async (api) => {
  const { max_tokens, ...question } = ask("How many?", { system: "Be brief.", tools: [weather()] });
  const answer = await client.messages.create({ ...question, max_tokens });
  const resource = api === "beta" ? client.beta.messages : client.messages;

  const { data, response } = await resource.countTokens(question).withResponse();

  const row = await proxy.rowOf(response.headers.get("x-amzn-requestid"));
  assert.equal(data.input_tokens, answer.usage.input_tokens);
  assert.deepEqual([row.operation, row.model_requested, row.outcome], ["count_tokens", MODEL, "success"]);
  assert.deepEqual([row.input_tokens, row.cost_usd], [null, "0.000000000"]);
});

once("a model that cannot count says so", async () => {
  const { max_tokens: _, ...question } = ask("Hi", { model: "claude-3-haiku" });

  const error = await refused(sdk.BadRequestError, () => client.messages.countTokens(question));

  assert.equal(error.apiMessage, "The provided model doesn't support counting tokens.");
  assert.equal(error.type, "invalid_request_error");
});

// Models

once("all pages of models are the whole list", async () => {
  const whole = await client.models.list({ limit: 1000 });
  const ids = whole.data.map((model) => model.id);

  const pages = [];
  for await (const model of client.models.list({ limit: 3 })) pages.push(model.id);
  const first = await client.models.list({ limit: 3 });
  const before = await client.models.list({ limit: 2, before_id: ids[2] });
  const active = await client.models.list({ limit: 1000, lifecycle: ["active"] });

  assert.deepEqual(pages, ids);
  assert(ids.length > 6 && new Set(ids).size === ids.length);
  assert(ids.includes("claude-sonnet-4-5-20250929"));
  assert(ids.every((id) => id.startsWith("claude")));
  assert.deepEqual([whole.has_more, first.has_more, first.data.length], [false, true, 3]);
  assert.deepEqual(before.data.map((model) => model.id), ids.slice(0, 2));
  assert.deepEqual(active.data, whole.data.filter((model) => model.lifecycle === "active"));
});

each([MODEL, "claude-sonnet-4-5-20250929", "claude-sonnet-4-5[1m]"], "a model has one id", async (name) => {
  const model = await client.models.retrieve(name);

  assert.deepEqual([model.type, model.id], ["model", "claude-sonnet-4-5-20250929"]);
  assert.deepEqual([model.display_name, model.created_at], ["Claude Sonnet 4.5", "2025-09-29T00:00:00Z"]);
});

// What Bedrock has not

const NOT_THERE = {
  model: () => client.models.retrieve("claude-nonsense"),
  message: () => client.messages.create(ask("Hi", { model: "nonsense" })),
  batches: () => client.messages.batches.list(),
};

each(Object.keys(NOT_THERE), "what there is not is not found", async (name) => {
  const before = (await proxy.ledger()).length;

  const error = await refused(sdk.NotFoundError, NOT_THERE[name]);

  assert.equal(error.type, "not_found_error");
  assert.equal((await proxy.ledger()).length, before);
});

// Credentials

const STYLES = {
  apiKey: (value) => ({ apiKey: value }),
  authToken: (value) => ({ authToken: value }),
  "x-api-key": (value) => ({ apiKey: value, defaultHeaders: { "x-api-key": value, authorization: null } }),
  both: (value) => ({ apiKey: value, defaultHeaders: { "x-api-key": value } }),
};

each(Object.keys(STYLES), "a credential is taken in every style", async (style) => {
  for (const credential of ["PROXY_KEY", "PROXY_TOKEN"]) {
    const message = await connect(STYLES[style](env(credential))).messages.create(ask("Hi"));

    assert.equal(message.content[0].text, SPOKEN);
  }
});

eachWay(["revoked", "unknown"], "a wrong key is an authentication error", async (kind, stream) => {
  const wrong = connect({ apiKey: kind === "revoked" ? env("PROXY_REVOKED_KEY") : "SSOK_nonsense" });
  const before = (await proxy.ledger()).length;

  const create = () => wrong.messages.create(ask("Hi", { stream }));
  const error = await refused(sdk.AuthenticationError, create);

  assert.deepEqual([error.status, error.type], [401, "authentication_error"]);
  assert.equal((await proxy.ledger()).length, before);
});

once("two credentials that differ are refused", async () => {
  const both = connect({ apiKey: KEY, defaultHeaders: { "x-api-key": env("PROXY_OTHER_KEY") } });

  const error = await refused(sdk.BadRequestError, () => both.messages.create(ask("Hi")));

  assert.match(error.apiMessage, /authorization/i);
  assert.match(error.apiMessage, /x-api-key/i);
});

// Errors

const OVERLOADED = [529, sdk.OverloadedError, "overloaded_error"];
const FAILED = [500, sdk.InternalServerError, "api_error"];
const THROTTLED = [429, sdk.RateLimitError, "rate_limit_error"];
const INVALID = [400, sdk.BadRequestError, "invalid_request_error"];
// What is asked for, what becomes of it, and words of the message.
const ERRORS = {
  "error code=ValidationException": [INVALID, "Simulated ValidationException from Bedrock."],
  "error code=AccessDeniedException": [
    [403, sdk.PermissionDeniedError, "permission_error"],
    "is not authorized to perform: bedrock:InvokeModel",
  ],
  "error code=ResourceNotFoundException": [
    [404, sdk.NotFoundError, "not_found_error"],
    "The specified resource ARN was not found.",
  ],
  "error code=ServiceQuotaExceededException": [THROTTLED, "Simulated ServiceQuotaExceededException"],
  throttle: [THROTTLED, "Too many requests, please wait before trying again."],
  "error code=ModelErrorException": [INVALID, "Simulated ModelErrorException from Bedrock."],
  "error code=InternalServerException": [FAILED, "Simulated InternalServerException from Bedrock."],
  credentials: [FAILED, "The service cannot use Bedrock at the moment."],
  "error code=ModelTimeoutException": [
    [504, sdk.GatewayTimeoutError, "timeout_error"],
    "Simulated ModelTimeoutException from Bedrock.",
  ],
  "error code=ServiceUnavailableException": [OVERLOADED, "The service isn't currently available."],
  "error code=ModelNotReadyException": [OVERLOADED, "The model is not ready to serve inference requests."],
  "html status=502": [OVERLOADED, "Bedrock could not be reached"],
  reset: [OVERLOADED, "Bedrock could not be reached"],
};

eachWay(Object.keys(ERRORS), "Bedrock's errors are the SDK's errors", async (directive, stream) => {
  const [[status, kind, type], words] = ERRORS[directive];
  const question = ask(`${randomUUID()} @sim:${directive}`, { stream });

  const error = await refused(kind, () => client.messages.create(question));

  const row = await proxy.ownRow(error.requestID);
  assert.deepEqual([error.status, error.type], [status, type]);
  assert(error.apiMessage.includes(words), error.apiMessage);
  assert(!error.apiMessage.includes("123456789012"), error.apiMessage);
  assert.deepEqual([row.outcome, row.success, row.total_tokens], ["upstream_error", false, null]);
});

eachWay(["10 MiB"], "a request that is too large is refused as such", async (_, stream) => {
  const question = ask("x".repeat(10 * 1024 * 1024 + 1), { stream });

  const error = await refused(sdk.ContentTooLargeError, () => client.messages.create(question));

  assert.deepEqual([error.status, error.type], [413, "request_too_large"]);
});

eachWay(["3 s"], "retry-after survives", async (_, stream) => {
  const question = ask("@sim:throttle retry_after=3", { stream });

  const error = await refused(sdk.RateLimitError, () => client.messages.create(question));

  assert.equal(error.headers.get("retry-after"), "3");
});

// Trying again

once("a quota that is used up is not tried again", async () => {
  const question = ask(`${randomUUID()} @sim:error code=ServiceQuotaExceededException`);

  const create = () => client.messages.create(question, { maxRetries: 2 });
  const error = await refused(sdk.RateLimitError, create);

  assert.equal(error.headers.get("x-should-retry"), "false");
  assert.equal((await attemptsOf(error)).length, 1);
});

once("a stream that fails at once is an error that is tried again", async () => {
  const question = ask(`${randomUUID()} @sim:exception after=0 type=throttlingException`, { stream: true });

  const create = () => client.messages.create(question, { maxRetries: 1 });
  const error = await refused(sdk.RateLimitError, create);

  assert.deepEqual([error.status, error.type], [429, "rate_limit_error"]);
  assert.equal((await attemptsOf(error)).length, 2);
});

eachWay(["flaky"], "what fails twice succeeds the third time", async (_, streamed) => {
  const key = randomUUID().replaceAll("-", "");
  const question = ask(`@sim:flaky times=2 code=ThrottlingException key=${key} retry_after=0`);

  const answer = await answered(client.messages, question, streamed, { maxRetries: 2 });

  const calls = await proxy.alike(await proxy.arrived(answer.id));
  const rows = await Promise.all(calls.map((call) => proxy.rowOf(call.request_id)));
  assert.deepEqual(calls.map((call) => call.status), [429, 429, 200]);
  assert.deepEqual(rows.map((row) => row.outcome), ["upstream_error", "upstream_error", "success"]);
  assert.deepEqual(rows.map((row) => row.total_tokens === null), [true, true, false]);
  await recorded(answer);
});

// Streams that end otherwise

const BAD_ENDS = {
  "exception after=3 type=throttlingException": ["rate_limit_error", "upstream_error"],
  "exception after=3 type=serviceUnavailableException": ["overloaded_error", "upstream_error"],
  "exception after=3 type=modelTimeoutException": ["timeout_error", "upstream_error"],
  "exception after=3 type=internalServerException": ["api_error", "upstream_error"],
  "cut after=3": ["api_error", "upstream_cut"],
  "cut_clean after=3": ["api_error", "upstream_cut"],
  "cut_boundary after=3": ["api_error", "upstream_cut"],
  "badcrc after=3": ["api_error", "upstream_cut"],
};

each(Object.keys(BAD_ENDS), "a stream that ends badly gives what it had and is an error", async (directive) => {
  const [type, outcome] = BAD_ENDS[directive];
  const pieces = [];
  const stream = client.messages.stream(ask(`@sim:${directive}`)).on("text", (piece) => pieces.push(piece));

  await assert.rejects(stream.done(), (error) => {
    assert(error instanceof sdk.APIError, `${error}`);
    assert.equal(error.type, type);
    return true;
  });

  const id = stream.response.headers.get("x-amzn-requestid");
  const [call, row] = [await proxy.arrived(id), await proxy.rowOf(id)];
  assert.deepEqual(pieces, ["This "]);
  assert.deepEqual([row.outcome, row.success, row.estimated], [outcome, false, true]);
  assert.equal(row.input_tokens, call.usage.input);
});

each(["break", "abort"], "a client that leaves ends the call", async (way) => {
  const question = ask("@sim:stream events=2000 delay_ms=5", { stream: true });
  const { data: stream, response } = await client.messages.create(question).withResponse();
  const id = response.headers.get("x-amzn-requestid");

  for await (const _ of stream) {
    if (way === "break") break;
    stream.controller.abort();
  }

  const [call, row] = [await proxy.arrived(id, 2), await proxy.rowOf(id)];
  assert.deepEqual([call.aborted, call.finished], [true, false]);
  assert.deepEqual([row.outcome, row.success, row.estimated], ["client_disconnect", false, true]);
  assert.equal(row.input_tokens, call.usage.input);
});

// Betas and members that Bedrock has not

eachWay(["edits"], "context is managed as far as Bedrock can", async (_, streamed) => {
  const edits = [{ type: "clear_thinking_20251015" }, { type: "clear_tool_uses_20250919" }];
  const betas = ["context-management-2025-06-27"];
  const question = ask("Hi", { betas, context_management: { edits } });

  const answer = await answered(client.beta.messages, question, streamed);

  const body = await proxy.sent(answer.id);
  assert.deepEqual(body.context_management, { edits: edits.slice(1) });
  assert.deepEqual(body.anthropic_beta, betas);
  await recorded(answer);
});

once("an unknown beta is tried once and left out then", async () => {
  // What was learned outlives a test, so each has a flag of its own.
  const [unknown, known] = [`totally-new-${randomUUID()}`, "interleaved-thinking-2025-05-14"];
  const question = ask("Hi", { betas: [unknown, known] });

  const first = await answered(client.beta.messages, question);
  const second = await answered(client.beta.messages, question, true);

  for (const [answer, attempts] of [[first, 2], [second, 1]]) {
    assert.equal(answer.message.content[0].text, SPOKEN);
    assert.deepEqual((await proxy.sent(answer.id)).anthropic_beta, [known]);
    assert.equal((await recorded(answer)).upstream_attempts, attempts);
  }
});

once("a long context is asked for by the name of the model", async () => {
  const answer = await answered(client.messages, ask("Hi", { model: "claude-sonnet-4-5[1m]" }));

  assert.deepEqual((await proxy.sent(answer.id)).anthropic_beta, ["context-1m-2025-08-07"]);
});

// Claude Code

const CLAUDE_CODE_BETAS = [
  "claude-code-20250219",
  "interleaved-thinking-2025-05-14",
  "fine-grained-tool-streaming-2025-05-14",
  "context-management-2025-06-27",
  "prompt-caching-scope-2026-01-05",
];

// A request as Claude Code makes it. The block that says who asks is another one in each.
function claudeCode(prefix, session) {
  const billing = `x-anthropic-billing-header: cc_version=2.1.${randomUUID()}; cc_entrypoint=cli;`;
  const bash = weather({ name: "Bash", eager_input_streaming: true, ...EPHEMERAL });
  const question = ask("Hi", {
    max_tokens: 32000,
    system: [{ type: "text", text: billing }, { type: "text", text: `${prefix} ${LONG}`, ...EPHEMERAL }],
    tools: [weather({ name: "Read", description: prefix }), bash],
    thinking: { type: "enabled", budget_tokens: 31999 },
    metadata: { user_id: JSON.stringify({ session_id: session }) },
    context_management: { edits: [{ type: "clear_thinking_20251015", keep: "all" }] },
    betas: CLAUDE_CODE_BETAS,
  });
  const headers = { "x-app": "cli", "user-agent": "claude-cli/2.1", "x-claude-code-session-id": session };
  const options = { headers, query: { beta: "true" } };
  return answered(client.beta.messages, question, true, options);
}

once("Claude Code finds its cache again", async () => {
  const [prefix, session] = [randomUUID(), randomUUID()];

  const first = await claudeCode(prefix, session);
  const second = await claudeCode(prefix, session);

  const [body, row] = [await proxy.sent(second.id), await recorded(second)];
  const [written, read] = [proxy.recorded(await recorded(first)), proxy.recorded(row)];
  assert(written.cache_write_5m > 1000);
  assert.deepEqual([read.cache_read, read.cache_write_5m], [written.cache_write_5m, 0]);
  assert.equal(row.client_session_id, session);
  assert.deepEqual(body.system.map((block) => block.text.split(" ")[0]), [prefix]);
  assert.deepEqual(body.anthropic_beta, CLAUDE_CODE_BETAS.slice(1, 3));
  assert(!("context_management" in body));
  assert(!(await proxy.arrived(second.id)).raw_path.includes("?"));
});

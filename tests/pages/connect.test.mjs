// A person points tools here, and sees that the way is open.

import assert from "node:assert/strict";

import { SERVICE, journey, quiet, signedIn } from "./service.mjs";

const MODEL = "claude-sonnet-4-5";
const MODEL_ID = "us.anthropic.claude-sonnet-4-5-20250929-v1:0";

async function rows(page) {
  const answer = await page.context().request.get(`${SERVICE}/api/usage/records`);
  return (await answer.json()).records;
}

// Rows are written a moment after the answer.
async function newRow(page, before) {
  for (let tries = 0; tries < 100; tries++) {
    const all = await rows(page);
    if (all.length > before) return all[0];
    await page.waitForTimeout(50);
  }
  throw new Error("no row came");
}

async function ask(page, model, way) {
  await page.goto(`${SERVICE}/connect`);
  const form = page.locator("form[action='/connect/test']");
  await form.getByLabel("Model").selectOption(model);
  await form.getByLabel("Way").selectOption(way);
  await form.getByRole("button", { name: "Test it" }).click();
}

async function everyBlock(page) {
  const offered = await page.locator("#model option").evaluateAll((options) => options.map((option) => option.value));
  const model = offered.find((name) => name.startsWith(MODEL));
  await page.getByLabel("Model in the lines below").selectOption(model);
  await page.getByRole("button", { name: "Show" }).click();
  assert.equal(page.url(), `${SERVICE}/connect?model=${model}`);
  assert.equal(await page.locator("#model").inputValue(), model);
  const blocks = await page.locator("pre code").evaluateAll((codes) => codes.map((code) => [code.id, code.textContent]));
  assert(blocks.length >= 12);
  for (const [id, text] of blocks) {
    const way = /bedrock|boto3|aws-cli|converse/.test(id) ? "bedrock" : "anthropic";
    assert(text.includes(id === "login" ? SERVICE : `${SERVICE}/${way}`), `${id}: ${text}`);
    if (id !== "login") assert(text.includes(way === "bedrock" ? MODEL_ID : model), `${id}: ${text}`);
    if (!["login", "settings"].includes(id)) assert(text.includes("SSOK_…"), `${id}: ${text}`);
  }
  const settings = blocks.find(([id]) => id === "settings")[1];
  assert.equal(JSON.parse(settings).apiKeyHelper, "bedrock_proxy token");
}

journey("every block has this service's address and the model that was picked", async (open) => {
  const page = await signedIn(open);
  await page.goto(`${SERVICE}/connect`);
  await everyBlock(page);
  // One tool at a time.
  await page.locator("summary", { hasText: "curl" }).click();
  assert.equal(await page.locator("details[open]").count(), 1);
  await page.getByRole("button", { name: "Copy: curl, Messages API" }).click();
  assert.equal(await page.getByRole("button", { name: "Copy: curl, Messages API" }).textContent(), "Copied");
  quiet(page);
});

journey("a test works in both ways and leaves a row", async (open) => {
  const page = await signedIn(open);
  for (const way of ["anthropic", "bedrock"]) {
    const before = (await rows(page)).length;
    await ask(page, "claude-opus-4-8", way);

    await page.getByRole("heading", { name: "It works" }).waitFor();
    assert.match(await page.locator("blockquote").innerText(), /^This is a simulated reply/);
    const row = await newRow(page, before);
    assert.deepEqual([row.endpoint_type, row.outcome, row.key_id], [way, "success", null]);
    assert((await page.getByRole("main").innerText()).includes(row.request_id));
  }
  quiet(page);
});

journey("a model that is refused shows the refusal", async (open) => {
  const page = await signedIn(open);
  for (const way of ["anthropic", "bedrock"]) {
    const before = (await rows(page)).length;
    await ask(page, "refused", way);

    await page.getByRole("heading", { name: "It does not work" }).waitFor();
    assert.match(await page.getByRole("alert").innerText(), /^400 [^]*model identifier is invalid/);
    assert.equal((await newRow(page, before)).outcome, "upstream_error");
  }
  quiet(page);
});

journey("all of it goes without scripts", async (open) => {
  const page = await signedIn(open, { options: { javaScriptEnabled: false } });
  await page.goto(`${SERVICE}/connect`);
  await everyBlock(page);
  assert.equal(await page.locator("button[data-copy]:visible").count(), 0, "no button that does nothing");
  await ask(page, "claude-opus-4-8", "anthropic");
  await page.getByRole("heading", { name: "It works" }).waitFor();
});

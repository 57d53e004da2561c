// Usage in a real browser: narrowed, paged through, taken away as a file; with scripts and without.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

import { SERVICE, SHOWN, api, ask, journey, quiet, signedIn } from "./service.mjs";

// A browser of somebody who made so many calls.
async function busy(open, calls, options) {
  const page = await signedIn(open, options);
  const made = await api(page, "POST", "/api/keys", { name: `key of ${calls}` });
  assert.equal(made.status, 201, JSON.stringify(made));
  for (let call = 0; call < calls; call += 1) await ask(made.body.key);
  // A call is there within a second of its end.
  const path = `/api/usage/records?limit=1&key_id=${made.body.id}`;
  for (let tries = 0; tries < 200; tries += 1) {
    const { body } = await api(page, "GET", path);
    if (body.total === calls) return { page, key: made.body.id };
    await page.waitForTimeout(50);
  }
  throw new Error("the calls do not appear");
}

// What a table says, row by row: exact values where they are there.
function rows(table) {
  return table.locator("tbody tr").evaluateAll((rows) =>
    rows.map((row) => [...row.cells].map((cell) => cell.querySelector("data")?.value ?? cell.textContent.trim())),
  );
}

// How far the page moved under its reader since it began to be there.
function shift(page) {
  return page.evaluate(
    () =>
      new Promise((resolve) => {
        new PerformanceObserver((list) => resolve(list.getEntries().filter((entry) => !entry.hadRecentInput).reduce((sum, entry) => sum + entry.value, 0))).observe({
          type: "layout-shift",
          buffered: true,
        });
        setTimeout(() => resolve(0), 300);
      }),
  );
}

async function lookAround(page, key) {
  await page.goto(`${SERVICE}/usage?key=${key}&limit=25`);
  const list = page.getByRole("group", { name: "Calls" });
  assert.equal(await list.locator("tbody tr").count(), 25);
  const figure = (name) => page.locator(".figures > div", { has: page.getByText(name, { exact: true }) }).locator("dd").first();
  assert.equal(await figure("Calls").innerText(), "30");

  // Page through: each call once.
  const seen = new Set(await list.locator("tbody a").evaluateAll((links) => links.map((link) => link.href)));
  await page.getByRole("link", { name: "Older" }).click();
  await page.getByText("5 older calls").waitFor();
  for (const href of await list.locator("tbody a").evaluateAll((links) => links.map((link) => link.href))) seen.add(href);
  assert.equal(seen.size, 30);
  await page.getByRole("link", { name: "Newest" }).click();
  await page.getByText("The newest 25 of 30 calls").waitFor();

  // Quick ranges, and what the chart is of; the filter stays.
  await page.getByRole("navigation", { name: "Ranges" }).getByRole("link", { name: "7 days" }).click();
  await page.locator("[aria-label=Ranges] [aria-current]", { hasText: "7 days" }).waitFor();
  assert.equal(new URL(page.url()).searchParams.get("key"), String(key));
  await page.getByRole("link", { name: "Calls", exact: true }).click();
  assert.equal(new URL(page.url()).searchParams.get("measure"), "requests");
  await page.getByText("The numbers").click();
  const numbers = await rows(page.locator("figure table"));
  assert.equal(numbers.length, 7);
  assert.equal(numbers.map((row) => row.at(-1)).filter((text) => text !== "–").reduce((sum, text) => sum + Number(text), 0), 30);
  // The chart tells the same to whoever points at it.
  const told = await page.locator("figure svg .hit title").allTextContents();
  assert.equal(told.length, 7);
  assert.equal(told.map((text) => Number(text.match(/: ([\d,]+) calls$/)[1].replace(",", ""))).reduce((sum, one) => sum + one, 0), 30);
  return figure;
}

journey("a person narrows their usage, pages through it and takes it away", async (open) => {
  const { page, key } = await busy(open, 30);
  const figure = await lookAround(page, key);
  assert.equal(await shift(page), 0);

  // The form of filters: what is not set stays out of the address.
  await page.getByLabel("Outcome").selectOption("timeout");
  await page.getByRole("button", { name: "Show" }).click();
  await page.getByText("No calls in these days that pass the filters.").waitFor();
  const query = new URL(page.url()).searchParams;
  assert.equal(query.get("outcome"), "timeout");
  assert(!query.has("model") && query.get("key") === String(key), page.url());
  assert.equal(await figure("Calls").innerText(), "0");
  await page.getByLabel("Outcome").selectOption("");
  await page.getByRole("button", { name: "Show" }).click();
  await page.getByText("The newest 25 of 30 calls").waitFor();

  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name: "CSV" }).click()]);
  assert.match(download.suggestedFilename(), /^usage-\d{4}-\d\d-\d\d\.csv$/);
  const file = await readFile(await download.path(), "utf8");
  assert.equal(file.trim().split("\n").length, 31);

  // A call, and what its cost is made of.
  await page.getByRole("group", { name: "Calls" }).locator("tbody a").first().click();
  await page.getByRole("heading", { name: "How the cost comes about" }).waitFor();
  const lines = await rows(page.getByRole("group", { name: "Tokens, prices and cost" }).locator("table"));
  const sum = lines.map((line) => Number(line[3])).reduce((sum, one) => sum + one, 0);
  const cost = Number(await figure("Cost").locator("data").getAttribute("value"));
  assert(Math.abs(sum - cost) < 1e-9 && cost > 0, `${sum} ${cost}`);
  await page.getByRole("navigation", { name: "Breadcrumbs" }).getByRole("link", { name: "Usage" }).click();
  await page.getByRole("heading", { name: "Usage", exact: true }).waitFor();

  // A day that is none is told beside its field, with what was typed.
  await page.goto(`${SERVICE}/usage?from=2026-11-20&to=2026-11-01`);
  await page.getByText("The last day is before the first.").waitFor();
  assert.equal(await page.getByLabel("Last day (UTC)").inputValue(), "2026-11-01");

  await page.goto(`${SERVICE}/`);
  assert.equal(await page.getByRole("group", { name: "Calls" }).locator("tbody tr").count(), 10);
  assert.equal(await shift(page), 0);
  await page.screenshot({ path: `${SHOWN}/overview.png`, fullPage: true });
  await page.setViewportSize({ width: 390, height: 844 });
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0);
  quiet(page);
});

journey("the same works without scripts", async (open) => {
  const { page: other, key } = await busy(open, 30);
  const page = await open({ javaScriptEnabled: false });
  await page.context().addCookies(await other.context().cookies());
  await lookAround(page, key);
  await page.getByLabel("Outcome").selectOption("success");
  await page.getByRole("button", { name: "Show" }).click();
  await page.getByText("The newest 25 of 30 calls").waitFor();
  quiet(page, other);
});

journey("an admin sees what everybody used", async (open) => {
  await busy(open, 3);
  const page = await signedIn(open, { as: "admin@example.com" });
  await page.goto(`${SERVICE}/admin`);
  await page.getByRole("heading", { name: "Everybody" }).waitFor();
  await page.getByRole("navigation", { name: "Ranges" }).getByRole("link", { name: "7 days" }).click();
  const spenders = page.getByRole("group", { name: "Spend by person" });
  await spenders.getByRole("link", { name: "developer@example.com" }).waitFor();
  const [, calls, cost] = (await rows(spenders.locator("table")))[0];

  await page.getByRole("link", { name: "More people" }).click();
  const sums = await rows(page.getByRole("group", { name: "Sums" }).locator("table"));
  assert.deepEqual([sums[0][1], sums[0][3]], [calls, cost]);
  await page.getByRole("group", { name: "Sums" }).getByRole("link").first().click();
  await page.getByText("Of developer@example.com").waitFor();
  await page.getByRole("navigation", { name: "What the table is by" }).getByRole("link", { name: "Key" }).click();
  await page.getByRole("group", { name: "Sums" }).waitFor();
  quiet(page);
});

// What admins do: find somebody, lock them out while they stream, let them in again, cut a stream, run a job, read the log.

import assert from "node:assert/strict";

import { DEVELOPER, SERVICE, api, isRefused, journey, quiet, signIn, signedIn, works } from "./service.mjs";

const ADMIN = "admin@example.com";
const MODEL = "us.anthropic.claude-sonnet-4-20250514-v1:0";

// A stream that goes on for minutes, by a program with a key: what it said in the end, and whether it ended well.
async function stream(key) {
  const answer = await fetch(`${SERVICE}/bedrock/model/${MODEL}/invoke-with-response-stream`, {
    method: "POST",
    headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" },
    body: JSON.stringify({
      anthropic_version: "bedrock-2023-05-31",
      max_tokens: 1000,
      messages: [{ role: "user", content: "Hello @sim:stream events=5000 delay_ms=50" }],
    }),
    signal: AbortSignal.timeout(60_000),
  });
  assert.equal(answer.status, 200);
  const reader = answer.body.getReader();
  const first = await reader.read();
  assert(first.value.length > 0);
  let said = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return { said, well: true };
      said += Buffer.from(value).toString("latin1");
    }
  } catch {
    return { said, well: false };
  }
}

// Opens the question, and says yes.
async function confirm(page, question, button) {
  await page.locator("summary", { hasText: question }).first().click();
  await page.getByRole("button", { name: button }).click();
}

function wasCut({ said, well }) {
  assert.equal(well, false, "it has no normal end");
  assert(said.includes("accessDeniedException"), said.slice(-500));
}

async function journeyOfAnAdmin(open, options) {
  const developer = await signedIn(open);
  const made = await api(developer, "POST", "/api/keys", { name: "laptop" });
  assert.equal(made.status, 201);
  const { key } = made.body;
  const page = await open(options);
  await page.goto(`${SERVICE}/`);
  await signIn(page, { as: ADMIN });

  // Somebody is found.
  await page.getByRole("link", { name: "People" }).click();
  await page.getByLabel("Address, name or id at the provider").fill("developer@");
  await page.getByRole("button", { name: "Search" }).click();
  await page.waitForURL(/q=developer/);
  await page.getByRole("link", { name: DEVELOPER }).click();
  await page.getByRole("heading", { level: 1, name: DEVELOPER }).waitFor();
  const person = page.url();

  // Locked out while they stream.
  const first = stream(key);
  await page.getByText("Nothing streams at the moment.").waitFor();
  await until(() => page.goto(person), () => page.locator("#streams tbody tr").count());
  await confirm(page, "Disable…", "Disable this person");
  await page.getByRole("status").getByText("The person is disabled").waitFor();
  wasCut(await first);
  await isRefused(key);
  await developer.goto(`${SERVICE}/`);
  assert.match(developer.url(), /\/login/);

  // And let in again.
  await page.getByRole("button", { name: "Enable" }).click();
  await page.getByRole("status").getByText("may sign in again").waitFor();
  await works(key);

  // One stream of theirs is cut; the key stays good.
  const second = stream(key);
  const streams = `${SERVICE}/admin/streams`;
  await until(() => page.goto(streams), () => page.locator("#streams tbody tr").count());
  assert((await page.locator("#streams").innerText()).includes(DEVELOPER));
  await confirm(page, "Cut…", "Cut this stream");
  await page.getByRole("status").getByText("The stream is cut").waitFor();
  wasCut(await second);
  await works(key);

  // A job is run.
  await page.getByRole("link", { name: "Jobs" }).click();
  await page.getByRole("button", { name: "Run now: price_check" }).click();
  await page.getByRole("status").getByText("The job is started").waitFor();
  await until(() => page.goto(`${SERVICE}/admin/jobs`), () => page.locator("tr", { hasText: "price_check" }).getByText("success").count());

  // The log tells of it all, and is whole.
  await page.getByRole("link", { name: "Audit log" }).first().click();
  await page.getByLabel("Event", { exact: true }).selectOption("stream_cut");
  await page.getByRole("button", { name: "Filter" }).click();
  await page.waitForURL(/event_type=stream_cut/);
  const entry = page.locator(".log > li").first();
  await entry.locator("summary").click();
  assert((await entry.innerText()).includes(MODEL));
  await page.getByLabel("Person", { exact: true }).fill(DEVELOPER);
  await page.getByLabel("Event", { exact: true }).selectOption("user_state_changed");
  await page.getByRole("button", { name: "Filter" }).click();
  await page.waitForURL(/user_state_changed/);
  assert((await page.locator(".log > li").count()) >= 2);
  await page.getByRole("link", { name: "Verify the log" }).click();
  await page.getByText("The log is whole").waitFor();

  // A key of theirs is revoked.
  await page.goto(person);
  const row = page.locator("tr", { hasText: "laptop" }).filter({ hasText: "active" }).first();
  await row.locator("summary").click();
  await row.getByRole("button", { name: "Revoke this key" }).click();
  await page.getByRole("status").getByText("The key is revoked").waitFor();
  await isRefused(key);

  await page.getByRole("link", { name: "Health" }).click();
  await page.getByRole("heading", { name: "Checks" }).waitFor();
  quiet(page, developer);
}

// Does something again and again until something holds.
async function until(again, holds) {
  const end = Date.now() + 20_000;
  for (;;) {
    await again();
    if (await holds()) return;
    assert(Date.now() < end, `not so in time: ${holds}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

journey("an admin locks somebody out while they stream, cuts a stream, runs a job and reads the log", (open) => journeyOfAnAdmin(open));

journey("an admin does so with scripts off", (open) => journeyOfAnAdmin(open, { javaScriptEnabled: false }));

journey("what lives on a page is told anew by itself, and not under a question that is open", async (open) => {
  const developer = await signedIn(open);
  const { body } = await api(developer, "POST", "/api/keys", { name: "live" });
  const page = await open();
  await page.goto(`${SERVICE}/`);
  await signIn(page, { as: ADMIN });
  await page.clock.install();
  await page.goto(`${SERVICE}/admin/streams`);
  await page.getByText("Nothing streams at the moment.").waitFor();
  const looks = () => page.seen.filter((url) => url.endsWith("/admin/streams")).length;
  const pass = (seconds) => page.clock.runFor(1000 * seconds);

  const ended = stream(body.key);
  const rows = page.locator("#streams tbody tr");
  await until(() => pass(4), async () => (await rows.count()) === 1);
  const before = await rows.innerText();
  await until(() => pass(4), async () => (await rows.innerText()) !== before);
  await page.locator("summary", { hasText: "Cut…" }).click();
  await page.waitForLoadState("networkidle");
  const looked = looks();
  await pass(60);
  assert.equal(looks(), looked, "it stays as it is while somebody decides");
  await page.getByRole("button", { name: "Cut this stream" }).click();
  await page.getByRole("status").getByText("The stream is cut").waitFor();
  wasCut(await ended);
  await until(() => pass(4), async () => (await rows.count()) === 0);
  quiet(page, developer);
});

journey("hostile names break no page", async (open) => {
  // Who has no address is called by name.
  await signedIn(open, { as: "No Address", fault: "html_name" });
  const page = await open({ viewport: { width: 390, height: 800 } });
  await page.goto(`${SERVICE}/`);
  await signIn(page, { as: ADMIN });
  for (const path of ["/admin/users", "/admin/audit", "/admin/users?q=script"]) {
    await page.goto(SERVICE + path);
    assert((await page.getByRole("main").innerText()).includes('<script>alert("1")</script>'), path);
    assert.equal(await page.locator("main :is(img, script)").count(), 0, path);
  }
  await page.locator("table a", { hasText: "<script>" }).click();
  await page.getByRole("heading", { level: 1, name: "<script>" }).waitFor();
  for (const path of [page.url().slice(SERVICE.length), "/admin/users", "/admin/audit", "/admin/jobs", "/admin/streams", "/admin/health"]) {
    await page.goto(SERVICE + path);
    const wider = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(wider, 0, path);
  }
  quiet(page);
});

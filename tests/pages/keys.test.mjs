// A person makes keys, copies them, uses them, and takes them away again.

import assert from "node:assert/strict";

import { SERVICE, api, isRefused, journey, quiet, signIn, signedIn, works } from "./service.mjs";

async function fill(page, name) {
  await page.goto(`${SERVICE}/keys`);
  await page.getByLabel(/^Name/).fill(name);
}

const make = (page) => page.getByRole("button", { name: "Make the key" });

// The key on the page that shows it.
async function shown(page) {
  await page.getByRole("heading", { name: "Your new key" }).waitFor();
  const key = await page.locator("#key").textContent();
  assert.match(key, /^SSOK_[0-9A-Za-z]{32}$/);
  assert(!page.url().includes(key));
  return key;
}

async function create(page, name) {
  await fill(page, name);
  await make(page).click();
  return shown(page);
}

const row = (page, name) => page.locator("tbody").filter({ has: page.locator("th .typed").getByText(name, { exact: true }) });

// Opens a question of the first key with this name, and answers its form.
async function ask(page, name, question) {
  await page.goto(`${SERVICE}/keys`);
  const details = row(page, name).first().locator("details").filter({ hasText: `${question}…` });
  await details.locator("summary").click();
  return details.locator("form");
}

async function names(page) {
  const answer = await page.context().request.get(`${SERVICE}/api/keys`);
  return (await answer.json()).keys.map((key) => key.name);
}

async function wholeLife(page) {
  const first = await create(page, "laptop");
  assert((await page.locator("#claude-key").textContent()).includes(`ANTHROPIC_AUTH_TOKEN=${first}`));
  await works(first);

  let form = await ask(page, "laptop", "Rename");
  await form.getByLabel("New name").fill("desk");
  await form.getByRole("button").click();
  await page.getByText("The key has its new name.").waitFor();
  assert(!(await page.content()).includes(first), "shown once");

  form = await ask(page, "desk", "Rotate");
  await form.getByLabel("The old key ends").selectOption("at once");
  await form.getByRole("button").click();
  const second = await shown(page);
  await page.getByText("The key that it takes the place of ends at once.").waitFor();
  await works(second);
  await isRefused(first);

  form = await ask(page, "desk", "Rotate");
  await form.getByLabel("The old key ends").selectOption("after 1 hour");
  await form.getByRole("button").click();
  const third = await shown(page);
  await works(second);
  await works(third);

  form = await ask(page, "desk", "Revoke");
  await form.getByText("cannot be undone").waitFor();
  await form.getByRole("button").click();
  await page.getByText("The key is revoked.").waitFor();
  await isRefused(third);
  assert.deepEqual(await names(page), ["desk", "desk", "desk"]);
}

journey("a key is made, copied, used, renamed, rotated and revoked", async (open) => {
  const page = await signedIn(open);
  const key = await create(page, "to copy");
  const button = page.getByRole("button", { name: "Copy: the key" });
  await button.click();
  assert.equal(await button.textContent(), "Copied");
  await page.goto(`${SERVICE}/keys`);
  await page.getByLabel(/^Name/).focus();
  await page.keyboard.press("Control+V");
  assert.equal(await page.getByLabel(/^Name/).inputValue(), key);

  await page.getByLabel(/^Name/).fill("several lines");
  await make(page).click();
  await shown(page);
  const lines = await page.locator("#claude-key").textContent();
  await page.getByRole("button", { name: "Copy: Claude Code with this key" }).click();
  await page.evaluate(() => document.body.append(Object.assign(document.createElement("textarea"), { id: "pasted" })));
  await page.locator("#pasted").focus();
  await page.keyboard.press("Control+V");
  assert.equal(await page.locator("#pasted").inputValue(), lines);

  for (const name of ["to copy", "several lines"]) await (await ask(page, name, "Revoke")).getByRole("button").click();
  for (const name of await names(page)) assert(["to copy", "several lines"].includes(name));
  quiet(page);
});

journey("a key lives its whole life", async (open) => {
  const page = await signedIn(open, { as: "admin@example.com" });
  await wholeLife(page);
  quiet(page);
});

journey("all of it goes without scripts", async (open) => {
  const page = await signedIn(open, { as: "No Address", options: { javaScriptEnabled: false } });
  await wholeLife(page);
  // Two clicks, and nothing that holds the second one back.
  await fill(page, "twice");
  await make(page).dblclick();
  await page.getByRole("heading", { name: /^(Your new key|This form was already sent)$/ }).waitFor();
  assert.equal((await names(page)).filter((name) => name === "twice").length, 1);
});

journey("a form that is sent twice makes one key", async (open) => {
  const page = await signedIn(open);
  const before = (await names(page)).length;
  await fill(page, "once");
  await make(page).dblclick();
  const key = await shown(page);

  // Loading the page again sends the form again.
  await page.reload();
  await page.getByRole("heading", { name: "This form was already sent" }).waitFor();
  await page.getByText("It made the key once").waitFor();
  assert(!(await page.content()).includes(key));
  assert.equal((await names(page)).length, before + 1);

  // Who did not keep the key makes another one from here.
  await page.getByRole("button", { name: "Rotate it now" }).click();
  const other = await shown(page);
  await works(other);
  await isRefused(key);

  // Going back to a page that answered a form, a browser has nothing to show, and asks before it sends the form again.
  await assert.rejects(page.goBack(), /ERR_CACHE_MISS/);
  assert.equal((await names(page)).length, before + 2);
});

journey("a session that ends while somebody types costs nothing", async (open) => {
  const page = await signedIn(open);
  const name = "typed <i>slowly</i>";
  await fill(page, name);
  await page.context().clearCookies();
  await make(page).click();

  await page.getByRole("heading", { name: "Your session is over" }).waitFor();
  await page.getByText("What you typed is kept here").waitFor();
  assert((await page.locator("dl").innerText()).includes(name));
  const link = page.getByRole("link", { name: "Sign in" });
  const [tab] = await Promise.all([page.context().waitForEvent("page"), link.click()]);
  await signIn(tab, { to: "/keys" });

  await page.getByRole("button", { name: "Send again" }).click();
  await page.getByRole("heading", { name: "Send it again?" }).waitFor();
  await page.getByText("Signed in as developer@example.com").waitFor();
  await page.getByRole("button", { name: "Send", exact: true }).click();

  await works(await shown(page));
  assert((await names(page)).includes(name));
  quiet(page);
});

journey("names of all kinds are shown as they are, and break no page", async (open) => {
  const page = await signedIn(open, { as: "admin@example.com" });
  const hostile = [
    "x".repeat(100),
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "مفتاح قديم abc",
    "👩‍💻".repeat(20),
    "=HYPERLINK(\"https://evil.example\",\"x\")",
  ];
  for (const name of hostile) {
    await create(page, name);
    for (const width of [320, 1200]) {
      await page.setViewportSize({ width, height: 700 });
      for (const path of ["", "/keys"]) {
        if (path) await page.goto(SERVICE + path);
        const wider = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert(wider <= 0, `${name} on ${path || "its page"} at ${width}: ${wider}`);
        if (path) await row(page, name).first().waitFor();
      }
      if (width === 320) await create(page, name);
    }
  }
  assert.equal(await page.locator("main :is(img, script)").count(), 0);
  // One that is too long is told beside its field, and kept.
  await page.goto(`${SERVICE}/keys`);
  const field = page.getByLabel(/^Name/);
  await field.evaluate((input) => input.removeAttribute("maxlength"));
  await field.fill("y".repeat(1000));
  await make(page).click();
  await page.getByText("A name has 1 to 100 characters").waitFor();
  assert.equal(await field.inputValue(), "y".repeat(1000));
  assert.equal(await field.getAttribute("aria-invalid"), "true");
  const listed = await api(page, "GET", "/api/keys");
  assert.equal(listed.status, 200);
  quiet(page);
});

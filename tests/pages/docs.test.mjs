// The API's page: Swagger UI under the policy of all pages.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { before } from "node:test";

import { DEVELOPER, SERVICE, SHOWN, api, journey, quiet, signedIn } from "./service.mjs";

before(() => mkdir(SHOWN, { recursive: true }));

// An operation of the page, opened.
async function operation(page, tag, id) {
  const at = page.locator(`#operations-${tag}-${id}`);
  if (!(await at.isVisible())) await page.locator(`#operations-tag-${tag}`).click();
  await at.locator(".opblock-summary-control").click();
  return at;
}

// What comes of a call that is tried.
async function tried(at) {
  await at.getByRole("button", { name: "Try it out" }).click();
  await at.getByRole("button", { name: "Execute" }).click();
  const answer = at.locator(".live-responses-table").first();
  await answer.waitFor();
  return { status: await answer.locator(".response-col_status").last().innerText(), text: await answer.innerText() };
}

async function authorize(page, credential) {
  await page.getByRole("button", { name: "Authorize" }).first().click();
  const form = page.locator(".auth-container").filter({ hasText: "http, Bearer" });
  await form.locator("input").fill(credential);
  await form.getByRole("button", { name: "Apply credentials" }).click();
  await page.locator(".btn-done").first().click();
}

for (const colorScheme of ["light", "dark"]) {
  journey(`every operation is shown in the ${colorScheme}, on a large screen and on a phone`, async (open) => {
    const page = await open({ colorScheme, viewport: { width: 1200, height: 900 } });
    await page.goto(`${SERVICE}/docs`);
    const document = await (await page.request.get(`${SERVICE}/openapi.json`)).json();
    const named = Object.values(document.paths).flatMap((item) => Object.values(item).map(({ operationId }) => operationId));
    const tags = page.locator(".opblock-tag");
    await tags.first().waitFor();
    await page.screenshot({ path: `${SHOWN}/docs-${colorScheme}.png` });
    for (let at = 0; at < (await tags.count()); at++) await tags.nth(at).click();
    const shown = await page.locator(".opblock").evaluateAll((all) => all.map((one) => one.id.split("-").at(-1)));
    assert.deepEqual(shown.sort(), named.sort());

    await page.setViewportSize({ width: 390, height: 800 });
    const at = await operation(page, "Keys", "createKey");
    await at.scrollIntoViewIfNeeded();
    await page.screenshot({ path: `${SHOWN}/docs-${colorScheme}-small.png` });
    const wider = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(wider, 0);
    const ground = await page.evaluate(() => getComputedStyle(document.querySelector(".opblock-tag")).color);
    const light = Math.max(...ground.match(/\d+/g).slice(0, 3)) > 128;
    assert.equal(light, colorScheme === "dark", ground);
    assert.equal(await page.locator("style, script:not([src]), iframe").count(), 0);
    quiet(page);
  });
}

journey("a call is tried with a key that is pasted, here and nowhere else", async (open) => {
  const owner = await signedIn(open);
  const { body } = await api(owner, "POST", "/api/keys", { name: "docs" });
  const page = await open();
  await page.goto(`${SERVICE}/docs`);
  await page.locator(".opblock-tag").first().waitFor();

  await authorize(page, body.key);
  const me = await tried(await operation(page, "SignIn", "me"));
  assert.equal(me.status, "200", me.text);
  assert(me.text.includes(DEVELOPER), me.text);
  const message = await tried(await operation(page, "Anthropic", "createMessage"));
  assert.equal(message.status, "200", message.text);
  assert(message.text.includes("This is a simulated reply"), message.text);

  assert.deepEqual(page.seen.filter((url) => !url.startsWith(SERVICE) && !url.startsWith("data:")), []);
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
  assert(!kept.includes("SSOK_"), kept);
  await page.reload();
  await page.locator(".opblock-tag").first().waitFor();
  assert.equal(await page.locator(".btn.authorize.unlocked").count(), 1, "forgotten with the page");
  quiet(owner, page);
});

journey("whoever is signed in tries calls as themselves", async (open) => {
  const page = await signedIn(open);
  await page.goto(`${SERVICE}/docs`);
  await page.locator(".opblock-tag").first().waitFor();
  const me = await tried(await operation(page, "SignIn", "me"));
  assert.equal(me.status, "200", me.text);
  assert(me.text.includes(DEVELOPER), me.text);
  quiet(page);
});

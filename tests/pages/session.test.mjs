// A person signs in with a browser, makes a key, uses it, and signs out.

import assert from "node:assert/strict";

import { DEVELOPER, PROVIDER, SERVICE, api, journey, quiet, signIn, signedIn, works } from "./service.mjs";

const SECURE = SERVICE.startsWith("https:");
const SESSION = SECURE ? "__Host-bedrock_session" : "bedrock_session";

function session(page) {
  return page.context().cookies(SERVICE).then((cookies) => cookies.find(({ name }) => name === SESSION));
}

journey("a person signs in, makes a key, uses it and signs out", async (open) => {
  const page = await open();
  await page.goto(`${SERVICE}/`);
  assert.equal(page.url(), `${SERVICE}/login`);
  await signIn(page);
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await page.getByText(DEVELOPER).waitFor();

  const made = await api(page, "POST", "/api/keys", { name: "laptop" });
  assert.equal(made.status, 201, JSON.stringify(made));
  await works(made.body.key);
  const listed = await api(page, "GET", "/api/keys");
  assert.deepEqual(listed.body.keys.map(({ id, name, status }) => ({ id, name, status })), [
    { id: made.body.id, name: "laptop", status: "active" },
  ]);
  assert(!JSON.stringify(listed.body).includes(made.body.key));

  const held = await session(page);
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.waitForURL(`${SERVICE}/login`);
  assert.equal(await session(page), undefined);
  // What was there before is not shown again.
  await page.goBack();
  await page.waitForURL(`${SERVICE}/login`);
  assert.equal(await page.getByText(DEVELOPER).count(), 0);

  const other = await open();
  await other.context().addCookies([held]);
  await other.goto(`${SERVICE}/`);
  assert.equal(other.url(), `${SERVICE}/login`);
  assert.equal((await other.context().request.get(`${SERVICE}/auth/me`)).status(), 401);
  // A key is not a part of the session.
  await works(made.body.key);
  quiet(page, other);
});

journey("no script and no address gets hold of a credential", async (open) => {
  const page = await signedIn(open);

  const cookie = await session(page);
  const { name, value, ...attributes } = cookie;
  const wanted = { domain: "localhost", path: "/", expires: -1, httpOnly: true, secure: SECURE, sameSite: "Lax" };
  assert.deepEqual(attributes, wanted, name);
  const kept = await page.evaluate(async () => ({
    cookies: document.cookie,
    local: localStorage.length,
    session: sessionStorage.length,
    databases: (await indexedDB.databases()).length,
    workers: (await navigator.serviceWorker.getRegistrations()).length,
  }));
  assert.deepEqual(kept, { cookies: "", local: 0, session: 0, databases: 0, workers: 0 });
  assert(page.seen.some((url) => url.startsWith(`${SERVICE}/auth/callback/`)), page.seen.join("\n"));
  for (const url of page.seen) {
    assert(!url.includes(value) && !/SSO[A-Z]_|eyJ/.test(url), url);
    assert([SERVICE, PROVIDER].includes(new URL(url).origin), url);
  }
  // Nor does the page itself hold one.
  assert(!(await page.content()).includes(value));
  quiet(page);
});

journey("a person who denies at the provider is told, and can try again", async (open) => {
  const page = await open();
  await page.goto(`${SERVICE}/`);
  await signIn(page, { as: "Deny", to: "" });
  await page.getByRole("heading", { name: "You cannot sign in" }).waitFor();
  assert.equal(await session(page), undefined);

  await page.getByRole("link", { name: "Sign in" }).click();
  await signIn(page);

  await page.getByText(DEVELOPER).waitFor();
  quiet(page);
});

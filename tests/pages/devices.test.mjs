// A program without a browser is let in with a code.

import assert from "node:assert/strict";

import { DEVELOPER, SERVICE, journey, post, quiet, signIn, signedIn, works } from "./service.mjs";

const DEVICE = "urn:ietf:params:oauth:grant-type:device_code";

async function begin(program) {
  const { status, body } = await post("/auth/device", {}, { "User-Agent": program });
  assert.equal(status, 200, JSON.stringify(body));
  return body;
}

function trade({ device_code }) {
  return post("/auth/token", { grant_type: DEVICE, device_code });
}

journey("a device is let in by a person who signs in first", async (open) => {
  const device = await begin("example-program/1.0");
  const page = await open();
  await page.goto(device.verification_uri_complete);
  assert.equal(new URL(page.url()).pathname, "/login");
  await signIn(page, { to: `/device?user_code=${device.user_code}` });
  const shown = await page.getByRole("main").innerText();
  for (const fact of [device.user_code, "127.0.0.1", "example-program/1.0", DEVELOPER]) {
    assert(shown.includes(fact), `${fact} in ${shown}`);
  }

  await page.getByRole("button", { name: "Allow" }).click();

  await page.getByRole("heading", { name: "The device is let in" }).waitFor();
  const { status, body } = await trade(device);
  assert.equal(status, 200, JSON.stringify(body));
  await works(body.access_token);
  assert.equal((await trade(device)).status, 400, "a code is good once");
  quiet(page);
});

journey("a device is denied by a person who types its code", async (open) => {
  const device = await begin("example-program/1.0");
  const page = await signedIn(open);
  await page.goto(device.verification_uri);
  await page.getByLabel("Code from the other screen").fill("BCDF-GHJK");
  await page.getByRole("button", { name: "Continue" }).click();
  assert.match(await page.getByRole("alert").textContent(), /^No device waits under this code/);
  // As people type: small, and without what is only there to be read.
  await page.getByLabel("Code from the other screen").fill(device.user_code.toLowerCase().replace("-", " "));
  await page.keyboard.press("Enter");
  const deny = page.getByRole("button", { name: "Deny" });
  await deny.waitFor();
  const later = await page.context().newPage();
  await later.goto(device.verification_uri_complete);

  await deny.click();

  await page.getByRole("heading", { name: "The device is not let in" }).waitFor();
  const { status, body } = await trade(device);
  assert.deepEqual([status, body.error], [400, "access_denied"]);
  // The decision stands.
  await later.getByRole("button", { name: "Allow" }).click();
  await later.getByText("No device waits under this code any more").waitFor();
  await page.goBack();
  await page.getByRole("alert").waitFor();
  assert.equal((await trade(device)).status, 400);
  quiet(page);
});

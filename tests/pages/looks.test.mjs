// How the pages look and behave: in the light, in the dark, on a small screen, and with hostile content in them.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { before } from "node:test";

import { DEVELOPER, PROVIDER, PROVIDER_NAME, SERVICE, SHOWN, journey, post, quiet, signIn, signedIn } from "./service.mjs";

const CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const LONG = "example-program/1.0 " + "with-a-name-that-goes-on-and-on".repeat(6);

// What no page of ours has in it.
const STRANGE = "main :is(img:not(.brand > img), script), a[href^='javascript:' i]";

function cli(redirect = "http://127.0.0.1:9/callback") {
  const query = { redirect_uri: redirect, code_challenge: CHALLENGE, code_challenge_method: "S256", state: "s".repeat(32) };
  return `/login/cli?${new URLSearchParams(query)}`;
}

async function device(program = LONG) {
  const { body } = await post("/auth/device", {}, { "User-Agent": program });
  return body.user_code;
}

// A decision on a device: the page that says what came of it.
async function decided(page) {
  await page.goto(`${SERVICE}/device?user_code=${await device()}`);
  await page.getByRole("button", { name: "Allow" }).click();
}

// The page that shows a key.
async function key(page) {
  await page.goto(`${SERVICE}/keys`);
  await page.getByLabel(/^Name/).fill("looks");
  await page.getByRole("button", { name: "Make the key" }).click();
  await page.getByRole("heading", { name: "Your new key" }).waitFor();
}

// A form whose session has ended.
async function kept(page) {
  await page.goto(`${SERVICE}/keys`);
  await page.getByLabel(/^Name/).fill("x".repeat(100));
  await page.context().clearCookies();
  await page.getByRole("button", { name: "Make the key" }).click();
  await page.getByRole("heading", { name: "Your session is over" }).waitFor();
}

// Every page of ours, and how to get there.
const PAGES = {
  login: async (page) => {
    await page.context().clearCookies();
    await page.goto(`${SERVICE}/login?next=/device`);
  },
  home: (page) => page.goto(`${SERVICE}/`),
  connect: (page) => page.goto(`${SERVICE}/connect`),
  keys: (page) => page.goto(`${SERVICE}/keys`),
  key,
  kept,
  device: (page) => page.goto(`${SERVICE}/device`),
  "device-unknown": (page) => page.goto(`${SERVICE}/device?user_code=BCDF-GHJK`),
  "device-code": async (page) => page.goto(`${SERVICE}/device?user_code=${await device()}`),
  cli: (page) => page.goto(SERVICE + cli()),
  decided,
  error: (page) => page.goto(`${SERVICE}/nowhere`),
};

// What can be told of a page without an eye for it.
function survey() {
  // The colour that lies behind an element.
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const { backgroundColor } = getComputedStyle(at);
      if (!/, 0\)$|transparent/.test(backgroundColor)) return backgroundColor;
    }
    return "rgb(255, 255, 255)";
  };
  // WCAG 2.2: relative luminance.
  const light = (colour) => {
    const part = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const [red, green, blue] = colour.match(/[\d.]+/g).map((value) => part(value / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (one, other) => {
    const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const texts = [...document.body.querySelectorAll("*")].filter((element) =>
    [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()),
  );
  const pale = texts.filter((element) => contrast(getComputedStyle(element).color, behind(element)) < 4.5);
  const shown = (element) => element.checkVisibility();
  const controls = [...document.querySelectorAll("button, .button, input:not([type=hidden])")].filter(shown);
  // WCAG 2.2: 24 (AA); a page of one card, on which there is one thing to do, has 44 (AAA).
  const least = document.body.matches(".card") ? 44 : 24;
  const small = controls.filter((element) => element.getBoundingClientRect().height < least);
  const nameless = controls.filter((element) => !(element.labels?.length || element.textContent.trim()));
  const told = (elements) => elements.map((element) => element.outerHTML);
  return {
    pale: told(pale),
    small: told(small),
    nameless: told(nameless),
    headings: document.querySelectorAll("h1").length,
    language: document.documentElement.lang,
    inline: told([...document.querySelectorAll("[style], style, script:not([src])")]),
    wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
}

const SOUND = { pale: [], small: [], nameless: [], headings: 1, language: "en", inline: [], wider: 0 };

before(() => mkdir(SHOWN, { recursive: true }));

for (const colorScheme of ["light", "dark"]) {
  journey(`the pages are sound in the ${colorScheme}, on a large screen and a small one`, async (open) => {
    const viewport = { width: 900, height: 700 };
    const page = await signedIn(open, { options: { colorScheme, viewport } });
    const cookies = await page.context().cookies();
    for (const [name, lead] of Object.entries(PAGES)) {
      await page.context().addCookies(cookies);
      await lead(page);
      const shot = (size) => ({ path: `${SHOWN}/${name}-${colorScheme}${size}.png`, caret: "initial", fullPage: true });
      await page.screenshot(shot(""));
      assert.deepEqual(await page.evaluate(survey), SOUND, name);
      assert.match(await page.title(), /^\S.* · Bedrock SSO Proxy$/);

      await page.setViewportSize({ width: 320, height: 600 });
      await page.screenshot(shot("-small"));
      assert.deepEqual(await page.evaluate(survey), SOUND, `${name}, small`);
      await page.setViewportSize(viewport);
    }
    quiet(page);
  });
}

journey("a page can be used with the keyboard alone", async (open) => {
  const page = await open();
  await page.goto(`${SERVICE}/device`);
  await page.keyboard.press("Tab");
  const ring = () => {
    const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
    return `${outlineStyle} ${outlineWidth}`;
  };
  assert.equal(await page.evaluate(ring), "solid 3px");
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/authorize/);
  await page.getByRole("button", { name: DEVELOPER }).press("Enter");
  await page.waitForURL(`${SERVICE}/device`);
  const focused = await page.evaluate(() => document.activeElement.id);
  assert.equal(focused, "user_code", "the only field has the focus");
  await page.keyboard.type(await device());
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Allow" }).waitFor();
  quiet(page);
});

journey("a form whose token is not ours changes nothing", async (open) => {
  const page = await signedIn(open);
  const spoil = (value) => page.locator("input[name=csrf_token]").evaluateAll((fields, value) => fields.forEach((field) => (field.value = value)), value);
  for (const value of ["", "0".repeat(64)]) {
    for (const [path, button] of [["/", "Sign out"], [cli(), "Allow"], [`/device?user_code=${await device()}`, "Allow"]]) {
      await page.goto(SERVICE + path);
      await spoil(value);
      const [answer] = await Promise.all([
        page.waitForResponse((response) => response.request().method() === "POST"),
        page.getByRole("button", { name: button }).click(),
      ]);
      assert.equal(answer.status(), 403);
      await page.getByRole("heading", { name: "You may not do this" }).waitFor();
      assert(!/SSO[A-Z]_|eyJ|code=/.test(await page.content()));
    }
  }
  await page.goto(`${SERVICE}/`);
  await page.getByText(DEVELOPER).waitFor(); // still signed in
  quiet(page);
});

journey("a form that comes after the session has ended says so to a person", async (open) => {
  const page = await signedIn(open);
  await page.goto(SERVICE + cli());
  await page.context().clearCookies();
  await page.getByRole("button", { name: "Allow" }).click();

  await page.getByRole("heading", { name: "You are not signed in" }).waitFor();
  const shown = await page.getByRole("main").innerText();
  assert(shown.includes("Your session is over") && !shown.includes("Authorization"), shown);
  await page.getByRole("link", { name: "Sign in" }).click();
  await signIn(page);
  quiet(page);
});

journey("a name that is a program is shown as the text that it is", async (open) => {
  // Who has no address is called by name.
  const page = await signedIn(open, { as: "No Address", fault: "html_name" });
  for (const path of ["/", "/device", cli()]) {
    await page.goto(SERVICE + path);
    assert((await page.locator("body").innerText()).includes('<script>alert("1")</script><img src=x'), path);
    assert.equal(await page.locator(STRANGE).count(), 0, path);
  }
  quiet(page);
});

journey("a program's name that is a program is shown as the text that it is", async (open) => {
  const hostile = `"><img src=x onerror=alert(1)><script>alert(2)</script>`;
  const code = await device(hostile);
  const page = await signedIn(open);
  await page.goto(`${SERVICE}/device?user_code=${code}`);
  assert((await page.getByRole("main").innerText()).includes(hostile));
  assert.equal(await page.locator(STRANGE).count(), 0);
  // And what a link brings along.
  for (const path of [
    `/device?user_code=${encodeURIComponent(hostile)}`,
    `/login?next=${encodeURIComponent(hostile)}`,
    `/login?next=${encodeURIComponent("javascript:alert(1)")}`,
    `/nowhere/${encodeURIComponent(hostile)}`,
    cli(hostile),
  ]) {
    await page.goto(SERVICE + path);
    assert.equal(await page.locator(STRANGE).count(), 0, path);
  }
  quiet(page);
});

journey("an error that is a program is shown as the text that it is", async (open) => {
  const page = await open();
  await page.goto(`${SERVICE}/`);
  await page.getByRole("link", { name: /^Sign in with / }).click();
  await page.waitForURL((url) => url.origin === PROVIDER);
  const state = new URL(page.url()).searchParams.get("state");
  const hostile = "</p><script>alert(1)</script><img src=x onerror=alert(2)>";
  const query = new URLSearchParams({ error: hostile, error_description: hostile, state, iss: PROVIDER });
  await page.goto(`${SERVICE}/auth/callback/${PROVIDER_NAME}?${query}`);
  assert((await page.getByRole("main").innerText()).includes(`The identity provider said: ${hostile}`));
  assert.equal(await page.locator(STRANGE).count(), 0);

  // One that is too long for any page.
  await page.getByRole("link", { name: "Sign in" }).click();
  await signIn(page, { fault: "error_with_html", to: "" });
  await page.getByRole("link", { name: "Home" }).click();
  await signIn(page);
  quiet(page);
});

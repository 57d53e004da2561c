// Every page, as a person and as an admin: no barrier that axe-core finds, nothing loaded from elsewhere, little loaded
// at all, nothing that moves while it loads, and all of it there without scripts.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

import { ADMIN, OWN } from "./list.mjs";
import { DEVELOPER, SERVICE, journey, quiet, signedIn } from "./service.mjs";

const axe = await readFile(`${process.env.TEST_NODE_MODULES}/axe-core/axe.min.js`, "utf8");
const RULES = { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] };
const LARGEST = 100_000;

async function barriers(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate((rules) => window.axe.run(document, rules), RULES);
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 200)).join(" | ")}`);
}

// What the page moved while it loaded, as browsers count it.
const shifts = () =>
  new Promise((resolve) => {
    new PerformanceObserver((list) => resolve(list.getEntries().reduce((sum, { value }) => sum + value, 0))).observe({
      type: "layout-shift",
      buffered: true,
    });
    setTimeout(() => resolve(0), 100);
  });

// Bytes over the wire of the page and all that it loads.
const loaded = () =>
  [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")].reduce((sum, { transferSize }) => sum + transferSize, 0);

function names(page) {
  return page.evaluate(() => ({
    blocking: [...document.scripts].filter((script) => !script.defer && !script.async).map((script) => script.outerHTML),
    headings: document.querySelectorAll("h1").length,
    wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    here: document.querySelectorAll("#menu [aria-current=page]").length,
  }));
}

for (const [who, as, pages] of [
  ["a person", DEVELOPER, OWN],
  ["an admin", "admin@example.com", { ...OWN, ...ADMIN }],
]) {
  journey(`every page of ${who} is sound`, async (open) => {
    for (const options of [
      { colorScheme: "light", viewport: { width: 1440, height: 900 } },
      { colorScheme: "dark", viewport: { width: 390, height: 844 } },
    ]) {
      const page = await signedIn(open, { as, options });
      for (const [name, path] of Object.entries(pages)) {
        const answer = await page.goto(SERVICE + path);
        const where = `${name}, ${options.colorScheme}`;
        assert.equal(answer.status(), 200, where);
        assert.deepEqual(await names(page), { blocking: [], headings: 1, wider: 0, here: path === "/device" ? 0 : 1 }, where);
        assert.deepEqual(await barriers(page), [], where);
        const moved = await page.evaluate(shifts);
        assert(moved < 0.01, `${where} moves by ${moved}`); // 0.1 is what counts as good
      }
      assert.deepEqual(page.seen.filter((url) => !url.startsWith(SERVICE) && !url.includes("/authorize")), []);
      quiet(page);
    }
  });

  journey(`a first look at any page of ${who} is small`, async (open) => {
    const cookies = await (await signedIn(open, { as })).context().cookies();
    for (const [name, path] of Object.entries(pages)) {
      const fresh = await open();
      await fresh.context().addCookies(cookies);
      await fresh.goto(SERVICE + path, { waitUntil: "networkidle" });
      const bytes = await fresh.evaluate(loaded);
      assert(bytes > 1000 && bytes < LARGEST, `${name}: ${bytes} bytes`);
      await fresh.context().close();
    }
  });

  journey(`every page of ${who} is there without scripts`, async (open) => {
    const page = await signedIn(open, { as });
    const plain = await signedIn(open, { as, options: { javaScriptEnabled: false } });
    for (const [name, path] of Object.entries(pages)) {
      await plain.goto(SERVICE + path);
      await page.goto(SERVICE + path);
      const heading = (of) => of.getByRole("heading", { level: 1 }).innerText();
      assert.equal(await heading(plain), await heading(page), name);
      // What a script would have to do is not offered.
      for (const button of await plain.locator("button[data-copy]").all()) assert.equal(await button.isVisible(), false, name);
      assert.equal(await plain.locator("button:not([popovertarget], [data-copy]):not(form button)").count(), 0, name);
    }
    quiet(page, plain);
  });
}

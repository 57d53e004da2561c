// Pictures of every page, in light and dark, wide and narrow: run by `make screenshots` against the demo.
//
//   SHOTS_SERVICE   where it runs        SHOTS_FOLDER   where pictures go
//   SHOTS_ONLY      pages by name, with commas between; all if it is not there
//   SHOTS_README    a folder for those that the README shows: what fits on a screen

import { mkdir } from "node:fs/promises";
import { pathToFileURL } from "node:url";

import { ADMIN, OWN } from "./list.mjs";

const { TEST_CHROMIUM, TEST_NODE_MODULES, SHOTS_SERVICE: service, SHOTS_FOLDER: folder, SHOTS_ONLY: only, SHOTS_README: readme } = process.env;
const { chromium } = await import(pathToFileURL(`${TEST_NODE_MODULES}/playwright-core/index.mjs`));

const PAGES = { login: "/login", ...OWN, ...ADMIN, error: "/nowhere" };
const SIZES = { wide: { width: 1440, height: 900 }, middle: { width: 1024, height: 768 }, phone: { width: 390, height: 844 } };

await mkdir(folder, { recursive: true });
const browser = await chromium.launch({ executablePath: TEST_CHROMIUM, args: ["--no-sandbox", "--no-proxy-server", "--disable-gpu"] });
const page = await (await browser.newContext({ locale: "en-GB", timezoneId: "UTC" })).newPage();
page.on("console", (message) => ["error", "warning"].includes(message.type()) && console.log(page.url(), message.text()));
page.on("pageerror", (error) => console.log(page.url(), String(error)));
await page.goto(`${service}/`);
await page.getByRole("link", { name: /^Sign in with / }).click();
await page.getByRole("button", { name: "admin@example.com" }).click();
await page.waitForURL(`${service}/`);
const cookies = await page.context().cookies();
const wanted = Object.entries(PAGES).filter(([name]) => !only || only.split(",").includes(name));
for (const [name, path] of wanted) {
  if (name === "login") await page.context().clearCookies();
  else await page.context().addCookies(cookies);
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    for (const [size, viewport] of Object.entries(SIZES)) {
      await page.setViewportSize(viewport);
      const answer = await page.goto(service + path);
      if (answer.status() >= 400 && name !== "error") console.log(name, answer.status());
      await page.screenshot({ path: `${folder}/${name}-${colorScheme}-${size}.png`, fullPage: true });
      const wider = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (wider > 0) console.log(`${name} is ${wider} px wider than ${size}`);
    }
  }
}
if (readme) {
  await mkdir(readme, { recursive: true });
  await page.setViewportSize({ width: 1280, height: 800 });
  for (const [name, colorScheme] of Object.entries({ overview: "light", connect: "light", admin: "dark", "all-usage": "light" })) {
    await page.emulateMedia({ colorScheme });
    await page.goto(service + PAGES[name]);
    await page.screenshot({ path: `${readme}/${name}.png` });
  }
}
await browser.close();

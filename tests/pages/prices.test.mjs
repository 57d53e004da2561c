// An admin imports prices from a file, looks at what they change, and sets and ends one by hand.

import assert from "node:assert/strict";

import { SERVICE, api, journey, quiet, signedIn } from "./service.mjs";

const ADMIN = "admin@example.com";
const FILE = "region,model_id,input_per_1k,output_per_1k\r\n*,acme.large-v1:0,0.001,0.002\r\n*,amazon.nova-lite-v1:0,0.001,0.00024\r\n";

async function imports(page) {
  await page.goto(`${SERVICE}/admin/costs`);
  await page.getByRole("link", { name: "Import CSV" }).click();
  const file = (content) => ({ name: "prices.csv", mimeType: "text/csv", buffer: Buffer.from(content) });
  await page.getByLabel("A CSV file").setInputFiles(file("region,model_id,input_per_1k,output_per_1k\n*,acme.x,-1,2\n"));
  await page.getByRole("button", { name: "Show what it changes" }).click();
  await page.getByText("Line 2").waitFor();
  await page.getByLabel("A CSV file").setInputFiles(file(`\ufeff${FILE}`));
  await page.getByRole("button", { name: "Show what it changes" }).click();
  await page.getByText("1 to add, 1 to change").waitFor();
  await page.getByRole("button", { name: "Import 2 prices" }).click();
  await page.getByText("The prices are imported.").waitFor();

  await page.getByLabel("Part of a model's id").fill("acme");
  await page.getByRole("button", { name: "Show" }).click();
  await page.getByRole("link", { name: "acme.large-v1:0" }).click();
  assert.equal(new URL(page.url()).pathname, "/admin/costs/*/acme.large-v1:0");
  await page.getByLabel("Output", { exact: true }).fill("lots");
  await page.getByRole("button", { name: "Set the price" }).click();
  await page.getByText("Write it like 3 or 0.25.").waitFor();
  assert.equal(await page.getByLabel("Output", { exact: true }).inputValue(), "lots");
  await page.getByLabel("Output", { exact: true }).fill("2.5");
  await page.getByRole("button", { name: "Set the price" }).click();
  await page.getByText("The price is set.").waitFor();
  assert.equal(await page.getByRole("region", { name: "History" }).locator("tbody tr").count(), 2);
  await page.getByText("End this price…").click();
  await page.getByRole("button", { name: "End this price" }).click();
  await page.getByText("The price has ended.").waitFor();
  quiet(page);
}

journey("an admin imports prices, sets one and ends one", async (open) => {
  const page = await signedIn(open, { as: ADMIN });
  await imports(page);
  const { body } = await api(page, "GET", "/api/admin/costs?model_id=amazon.nova-lite-v1:0");
  assert.equal(body.costs[0].input_cost_per_1k_tokens, "0.001");
  // A question that is open closes with Escape, and the focus is back.
  await page.goto(`${SERVICE}/admin/costs/*/amazon.nova-lite-v1:0`);
  await page.getByText("End this price…").press("Enter");
  await page.getByRole("button", { name: "End this price" }).focus();
  await page.keyboard.press("Escape");
  assert.equal(await page.getByRole("button", { name: "End this price" }).isVisible(), false);
  quiet(page);
});

journey("an admin does so without scripts", async (open) => {
  const page = await signedIn(open, { as: ADMIN, options: { javaScriptEnabled: false } });
  // The file is in already: what it says is what there is, but for the price that has ended.
  await page.goto(`${SERVICE}/admin/costs/import`);
  await page.getByLabel("or its lines").fill(FILE);
  await page.getByRole("button", { name: "Show what it changes" }).click();
  await page.getByText("1 to add, 0 to change, 1 as they are").waitFor();
  await page.getByRole("button", { name: "Import 1 price" }).click();
  await page.getByText("The prices are imported.").waitFor();
});

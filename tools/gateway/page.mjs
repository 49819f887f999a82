// The page in a real browser: paste, click, see the order change; then without a worker, and with a wrong token.
//
//     node page.mjs READY_URL ABSENT_URL TOKEN PICTURE_FOLDER

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(join(process.env.NODE_MODULES, "x"))("playwright-core");
const [ready, absent, token, pictures] = process.argv.slice(2);
const flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

const texts = [
  "The price of cat food rose last year.",
  "Dogs bark when somebody comes to the door.",
  "Cats purr by moving the muscles of the larynx while they breathe in and out.",
  "A cat is a small animal that people keep at home. <b>Not bold</b>",
];

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, headless: true, args: flags });
try {
  for (const colorScheme of ["light", "dark"]) {
    const page = await browser.newPage({ colorScheme, viewport: { width: 1000, height: 900 } });
    const elsewhere = [];
    const problems = [];
    page.on("request", (request) => request.url().startsWith(ready) || elsewhere.push(request.url()));
    page.on("pageerror", (error) => problems.push(error.message));
    page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
    await page.goto(ready);

    // By its labels and roles, as somebody who cannot see it would.
    await page.getByLabel("Query").fill("how do cats purr");
    await page.getByLabel("Documents").fill(texts.join("\n"));
    await page.getByText("Token", { exact: true }).click();
    await page.getByLabel("Bearer token").fill(token);
    await page.getByRole("button", { name: "Rerank" }).click();
    await page.getByRole("heading", { name: "New order" }).waitFor();
    const rows = await page.locator("#rows tr").evaluateAll((found) => found.map((row) => [...row.cells].map((cell) => cell.textContent)));
    assert.equal(rows.length, texts.length);
    assert.deepEqual(rows.map((row) => row[0]), ["1", "2", "3", "4"]);
    assert.equal(rows[0][4], texts[2], "the answer comes first");
    assert.equal(rows[0][1], "3");
    assert.match(rows[0][2], /up 2/);
    assert.deepEqual(rows.map((row) => row[4]).sort(), [...texts].sort(), "texts are shown as they are");
    assert.match(await page.getByRole("status").textContent(), /4 documents by .+ in \d+ ms/);
    await page.screenshot({ path: join(pictures, `page-${colorScheme}.png`), fullPage: true });

    // By the keyboard alone, with a token that is not the right one.
    await page.getByLabel("Bearer token").fill("another");
    await page.getByLabel("Bearer token").press("Enter");
    await page.getByText("Refused (401)").waitFor();
    assert.equal(await page.getByRole("heading", { name: "New order" }).isVisible(), false);
    assert.deepEqual(elsewhere, []);
    // The refusal itself is what the browser notes.
    assert.deepEqual(problems.filter((problem) => !problem.includes("401")), []);
    await page.close();
  }

  const narrow = await browser.newPage({ viewport: { width: 360, height: 700 } });
  await narrow.goto(absent);
  await narrow.getByText("Token", { exact: true }).click();
  await narrow.getByLabel("Bearer token").fill(token);
  await narrow.getByRole("button", { name: "Rerank" }).click();
  await narrow.getByText("The order below is the one you gave").waitFor();
  const order = await narrow.locator("#rows tr").evaluateAll((found) => found.map((row) => row.cells[1].textContent));
  assert.deepEqual(order, order.map((_, place) => String(place + 1)), "the order that was given");
  const overflow = await narrow.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(overflow <= 0, `the page is ${overflow} px too wide for a telephone`);
  await narrow.screenshot({ path: join(pictures, "page-narrow.png"), fullPage: true });
  console.log("  ok  the page: order changes, fallback and refusal are told, nothing loaded from elsewhere, light and dark, narrow");
} finally {
  await browser.close();
}

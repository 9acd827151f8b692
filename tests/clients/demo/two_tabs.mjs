// node two_tabs.mjs <page url> <chromium> <playwright-core module> [folder for screenshots]
// Two tabs of the demo, side by side. Exits with an error if anything is amiss.
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [url, executablePath, playwright, shots] = process.argv.slice(2);
const { chromium } = await import(pathToFileURL(playwright));
const profile = await mkdtemp(join(tmpdir(), "demo-profile-"));
const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  args: [...quiet, "--disable-component-update", "--disable-sync"],
});
context.setDefaultTimeout(15_000);
const complaints = [];

async function open(path = "") {
  const page = await context.newPage();
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("request", (request) => {
    if (new URL(request.url()).host !== new URL(url).host) complaints.push(`asked elsewhere: ${request.url()}`);
  });
  await page.goto(url + path);
  await page.waitForSelector('[data-status="live"]');
  await page.waitForSelector("#content:enabled");
  return page;
}

const text = (page) => page.inputValue("#content");
const shows = (page, part) => page.waitForFunction((wanted) => document.getElementById("content").value.includes(wanted), part);
const saved = (page) => page.waitForFunction(() => document.getElementById("saved").textContent.startsWith("All"));
const caret = (page) => page.evaluate(() => document.getElementById("content").selectionStart);
const place = (page, at) =>
  page.evaluate((offset) => {
    const element = document.getElementById("content");
    element.focus();
    element.setSelectionRange(offset, offset);
  }, at);

try {
  const room = `?doc=test-${Date.now()}`;
  const a = await open(room);
  const b = await open(room);
  for (const page of [a, b]) await page.waitForFunction(() => document.querySelectorAll(".person").length === 2);

  // What is typed in one tab arrives in the other, whose caret stays with its text.
  const begun = await text(a);
  await place(b, 30);
  await place(a, 0);
  await a.keyboard.type("First! ");
  await shows(b, "First! ");
  assert.equal(await caret(b), 37);
  assert.equal(await text(b), `First! ${begun}`);

  // Both at once, in different places.
  const end = (await text(b)).length;
  await place(b, end);
  await place(a, 0);
  await Promise.all([a.keyboard.type("left ", { delay: 20 }), b.keyboard.type("right", { delay: 20 })]);
  for (const page of [a, b]) {
    await shows(page, "left First!");
    await shows(page, "right");
    await saved(page);
  }
  await a.waitForFunction((other) => document.getElementById("content").value === other, await text(b));
  assert.equal(await text(a), `left First! ${begun}right`);

  // What arrives while an input method composes is kept as well.
  const typed = await text(a);
  const composer = await context.newCDPSession(a);
  await place(a, 0);
  await composer.send("Input.imeSetComposition", { text: "ni", selectionStart: 2, selectionEnd: 2 });
  await place(b, typed.length + 2);
  await b.keyboard.type(" meanwhile");
  await saved(b);
  await b.fill("#title", "Later than that");
  await a.waitForFunction(() => document.getElementById("title").value === "Later than that");
  await composer.send("Input.insertText", { text: "日" });
  for (const page of [a, b]) {
    await shows(page, "日");
    await shows(page, " meanwhile");
    await saved(page);
  }
  await place(b, 5);

  // A step that runs on every change has counted the words, and one that runs by the clock moves the chart.
  for (const page of [a, b]) {
    const words = (await text(page)).concat(" ", await page.inputValue("#title")).split(/\s+/).filter(Boolean).length;
    await page.waitForFunction((count) => document.getElementById("insight").textContent.startsWith(`${count} words`), words);
    await page.waitForFunction(() => Number(document.getElementById("tabs").textContent) >= 2);
    const drawn = await page.getAttribute(".chart .tabs", "d");
    await page.waitForFunction((before) => document.querySelector(".chart .tabs").getAttribute("d") !== before, drawn);
  }

  // The other's caret is drawn, and a wave is seen.
  await a.waitForSelector("#content-mirror .caret");
  await b.click("#wave");
  await a.waitForSelector(".toast:has-text('waves')");
  await b.waitForSelector(".toast:has-text('You waved')");
  if (shots) await a.screenshot({ path: join(shots, "two-tabs.png") });

  // A name is changed, and seen elsewhere.
  await b.fill(".person:has-text('you') .name", "Grace");
  await b.keyboard.press("Enter");
  await a.waitForFunction(() => [...document.querySelectorAll(".name")].some((input) => input.value === "Grace"));

  // Unplugged, both go on writing; plugged in again, both have everything.
  await b.click("#plug");
  await b.waitForSelector('[data-status="reconnecting"]');
  await a.fill("#title", "Written while you were away");
  await saved(a);
  await place(b, 0);
  await b.keyboard.type("Offline. ");
  await b.waitForFunction(() => document.getElementById("saved").textContent.startsWith("Kept here"));
  assert.ok(!(await text(a)).includes("Offline."));
  await b.click("#plug");
  await b.waitForFunction(() => /^Resumed: \d+ missed change/.test(document.getElementById("connection-text").textContent));
  await shows(a, "Offline. ");
  await saved(b);
  assert.equal(await b.inputValue("#title"), "Written while you were away");

  // Who closes the tab is gone.
  await b.close({ runBeforeUnload: false });
  await a.waitForFunction(() => document.querySelectorAll(".person").length === 1);

  // It fits a narrow window, and nothing complained.
  await a.setViewportSize({ width: 360, height: 740 });
  assert.ok(await a.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  const alone = (complaint) => !/WebSocket|ERR_|409 \(Conflict\)/.test(complaint); // who was second sends again
  assert.deepEqual(complaints.filter(alone), []);
} finally {
  await context.close();
  await rm(profile, { recursive: true, force: true });
}

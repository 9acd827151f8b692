// node page.mjs <page url> <chromium> <playwright-core module>
// Opens the page; of each list of lines on stdin (JSON) it says "seen" once the page shows just those.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [url, executablePath, playwright] = process.argv.slice(2);
const { chromium } = await import(pathToFileURL(playwright));
const profile = await mkdtemp(join(tmpdir(), "shop-profile-"));
const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  args: [...quiet, "--disable-component-update", "--disable-sync"],
});
try {
  const page = await context.newPage();
  page.on("pageerror", (error) => console.error(String(error)));
  await page.goto(url);
  for await (const line of createInterface({ input: process.stdin })) {
    const shows = (wanted) => {
      const lines = [...document.querySelectorAll("#orders li")].map((element) => element.textContent);
      return JSON.stringify(lines.sort()) === JSON.stringify(wanted);
    };
    await page.waitForFunction(shows, JSON.parse(line).sort(), { timeout: 20_000 });
    console.log("seen");
  }
} finally {
  await context.close();
  await rm(profile, { recursive: true, force: true, maxRetries: 3 });
}

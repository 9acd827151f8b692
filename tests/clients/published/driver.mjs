// Runs the published Motia client as told by JSON lines on stdin; prints what it sees as JSON lines.
// node driver.mjs <module of the client>
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { Stream } = await import(pathToFileURL(process.argv[2]));
const say = (record) => process.stdout.write(`${JSON.stringify(record)}\n`);
const subscriptions = new Map();
let stream;

process.on("uncaughtException", (error) => {
  say({ name: "crashed", message: error.message });
  process.exit(1);
});

function watch(as, subscription, custom) {
  subscriptions.set(as, subscription);
  subscription.addChangeListener((state) => say({ as, name: "state", state }));
  for (const type of custom) subscription.onEvent(type, (data) => say({ as, name: "custom", type, data }));
}

const commands = {
  connect: ({ url, token }) => {
    stream = new Stream(url, token === undefined ? undefined : { protocols: ["Authorization", token] });
  },
  item: ({ as, stream: name, group, id, custom }) => watch(as, stream.subscribeItem(name, group, id), custom),
  group: ({ as, stream: name, group, custom }) => watch(as, stream.subscribeGroup(name, group), custom),
  leave: ({ as }) => subscriptions.get(as).close(),
  look: ({ as }) => say({ as, name: "look", state: subscriptions.get(as).getState() }),
  close: () => {
    stream?.close();
    process.exit(0); // It would go on trying to connect.
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: what, ...rest } = JSON.parse(line);
  commands[what](rest);
}

// Runs streams of client.js as told by JSON lines on stdin; prints what they see as JSON lines.
// node driver.mjs <client.js> [path of a module that exports a WebSocket class]
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const network = new EventTarget();
globalThis.addEventListener = network.addEventListener.bind(network);
globalThis.removeEventListener = network.removeEventListener.bind(network);

const [clientPath, socketModule] = process.argv.slice(2);
const { connectStream } = await import(pathToFileURL(clientPath));
const WebSocket = socketModule ? (await import(pathToFileURL(socketModule))).WebSocket : undefined;
const streams = new Map();
const say = (record) => process.stdout.write(`${JSON.stringify(record)}\n`);
console.error = (...words) => say({ name: "console", words: words.map(String) });

function take(tokens) {
  const token = tokens.length > 1 ? tokens.shift() : tokens[0];
  if (token === "!throw") throw new Error("no token to be had");
  return token;
}

function open({ as, stream, options, custom, tokens }) {
  if (tokens) options.auth = { token: async () => take(tokens) };
  let opened;
  try {
    opened = connectStream(stream, WebSocket ? { ...options, WebSocket } : options);
  } catch (error) {
    return say({ as, name: "threw", kind: error.constructor.name, message: error.message });
  }
  streams.set(as, opened);
  for (const name of ["sync", "create", "update", "delete", "event", ...custom]) {
    opened.on(name, (data, change) => say({ as, name, data, change }));
  }
  opened.on("status", (status, detail) => say({ as, name: "status", status, detail }));
  opened.on("error", (error) => say({ as, name: "error", code: error.code, message: error.message }));
}

function plain(state) {
  return state instanceof Map ? Object.fromEntries(state) : state;
}

const commands = {
  open,
  close: ({ as }) => streams.get(as).close(),
  look: ({ as }) => {
    const { state, status, position } = streams.get(as);
    say({ as, name: "look", known: state !== undefined, state: plain(state), status, position });
  },
  breakHandlers: ({ as, on }) => {
    streams.get(as).on(on, () => {
      throw new Error("thrown on purpose");
    });
    streams.get(as).on(on, async () => {
      throw new Error("rejected on purpose");
    });
  },
  count: ({ as, on, times }) => {
    let left = times;
    const off = streams.get(as).on(on, () => {
      say({ as, name: "counted" });
      if (--left === 0) off();
    });
  },
  hurry: () => (Math.random = () => 0),
  online: () => network.dispatchEvent(new Event("online")),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: what, ...rest } = JSON.parse(line);
  commands[what](rest);
}

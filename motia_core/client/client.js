/**
 * The motia-core stream client: one ES module for browsers and Node, no build step.
 *
 *     import { connectStream } from "/client.js";
 *     const documents = connectStream("documents", { groupId: "workspace-1" });
 *     documents.on("update", (item, change) => console.log(item, change.position));
 *
 * Types, and what each name promises: client.d.ts.
 */

const BUILT_IN = new Set(["sync", "create", "update", "delete", "event", "status", "error"]);
const DEFAULT_URL = "ws://127.0.0.1:3112/";
const BASE_DELAY = 250;
const MAX_DELAY = 10_000;
const CONNECT_TIMEOUT = 10_000;
const UNAUTHENTICATED = 4401;
const FORBIDDEN = 4403;
const RESTARTING = new Set([1001, 1012]);
/** A subscription fell behind: the server sends it a fresh `sync` by itself. */
const SLOW_CONSUMER = "SLOW_CONSUMER";
/** Trouble that passes: a join is worth another try, a live subscription goes on by itself. */
const PASSING = new Set(["BACKEND_UNAVAILABLE", "INTERNAL_ERROR"]);
/** These announce that the connection will be closed: an error only if that is the end. */
const ANNOUNCEMENTS = new Set(["UNAUTHENTICATED", "ACCESS_ENDED", "SERVER_SHUTDOWN"]);

/** What went wrong, with the server's code; `data` is all that the server said. */
export class StreamError extends Error {
  constructor(code, message, data) {
    super(message || code);
    this.name = "StreamError";
    this.code = code;
    this.data = data;
  }
}

/** Subscribe to a group of a stream, or to one item of it. */
export function connectStream(name, options) {
  const { groupId, id = null, after = null, auth, url, WebSocket = globalThis.WebSocket } = options ?? {};
  text(name, "the stream name");
  text(groupId, "groupId");
  if (id !== null) text(id, "id");
  if (after !== null) text(after, "after");
  const token = auth?.token ?? null;
  if (token !== null && typeof token !== "string" && typeof token !== "function") {
    throw new TypeError("connectStream: auth.token must be text, or a function that returns it");
  }
  if (typeof WebSocket !== "function") {
    throw new TypeError("connectStream: no global WebSocket here (Node before 22): pass one as the option WebSocket");
  }
  const connection = Connection.shared(socketUrl(url), token, WebSocket);
  return new Stream(connection.channel(name, groupId, id, after));
}

function text(value, what) {
  if (typeof value !== "string" || !value) throw new TypeError(`connectStream: ${what} must be text that is not empty`);
}

/** Without `url`: the server that this module came from, else the page's own, else the default port. */
function socketUrl(url) {
  const page = globalThis.location?.href;
  const served = /^https?:.*\/client\.js(\?|$)/.test(import.meta.url) ? new URL(".", import.meta.url).href : undefined;
  let parsed;
  try {
    parsed = url === undefined ? new URL("/", page) : new URL(url, page);
    if (url === undefined && served) parsed = new URL(served);
  } catch {
    if (url !== undefined) throw new TypeError("connectStream: url must be a ws:, wss:, http: or https: address");
    parsed = new URL(served ?? DEFAULT_URL);
  }
  if (parsed.protocol === "file:" && url === undefined) parsed = new URL(DEFAULT_URL);
  if (/^https?:$/.test(parsed.protocol)) parsed.protocol = parsed.protocol.replace("http", "ws");
  if (!/^wss?:$/.test(parsed.protocol)) {
    throw new TypeError("connectStream: url must be a ws:, wss:, http: or https: address");
  }
  parsed.hash = "";
  return parsed.href;
}

/** What `connectStream` returns: one listener's view of a channel. */
class Stream {
  #channel;
  #handlers = new Map();

  constructor(channel) {
    this.#channel = channel;
    channel.attach(this, (name, args) => this.#emit(name, args));
  }

  get status() {
    return this.#channel.statusOf(this);
  }

  get position() {
    return this.#channel.position;
  }

  get state() {
    return this.#channel.state;
  }

  on(name, handler) {
    if (typeof handler !== "function") throw new TypeError(`on(${JSON.stringify(name)}): the handler must be a function`);
    if (!this.#handlers.has(name)) this.#handlers.set(name, new Set());
    this.#handlers.get(name).add(handler);
    return () => this.off(name, handler);
  }

  off(name, handler) {
    this.#handlers.get(name)?.delete(handler);
  }

  close() {
    this.#channel.detach(this);
  }

  #emit(name, args) {
    const handlers = this.#handlers.get(name);
    if (name === "error" && !handlers?.size) report("a stream failed and has no error handler", args[0]);
    for (const handler of [...(handlers ?? [])]) {
      try {
        const result = handler(...args);
        if (typeof result?.then === "function") result.then(undefined, (error) => report(`"${name}" handler`, error));
      } catch (error) {
        report(`"${name}" handler`, error);
      }
    }
  }
}

/** One subscription on the wire, shared by every `Stream` that asked for the same thing. */
class Channel {
  position;
  state = undefined;
  status = "connecting";
  subscriptionId = `${Math.random().toString(36).slice(2, 10)}-${Channel.#count++}`;
  static #count = 0;
  #connection;
  #listeners = new Map();
  #joining = true;
  #early = [];
  #missed = 0;
  #everLive = false;
  #retry;

  constructor(connection, name, groupId, id, after) {
    this.#connection = connection;
    this.name = name;
    this.groupId = groupId;
    this.id = id;
    this.position = after;
    /** A listener with a place of its own cannot be served from another's state. */
    this.shareable = after === null;
  }

  attach(stream, emit) {
    this.#listeners.set(stream, emit);
    if (this.state === undefined) return;
    // The server has answered already: this listener's sync comes from the state kept here.
    queueMicrotask(() => {
      if (!this.#listeners.has(stream)) return;
      emit("status", [this.status, {}]);
      const data = this.id === null ? [...this.state.values()] : this.state;
      emit("sync", [data, this.#change({ event: { type: "sync", data }, position: this.position })]);
    });
  }

  statusOf(stream) {
    return this.#listeners.has(stream) ? this.status : "closed";
  }

  detach(stream) {
    const emit = this.#listeners.get(stream);
    if (!emit) return;
    this.#listeners.delete(stream);
    emit("status", ["closed", {}]);
    if (!this.#listeners.size) this.#end();
  }

  /** Ask for the subscription, from where this channel stands. */
  join() {
    clearTimeout(this.#retry);
    this.#joining = true;
    this.#missed = 0;
    this.#setStatus("open");
    this.#connection.send("join", { ...this.#address(), after: this.position });
  }

  lost(detail) {
    clearTimeout(this.#retry);
    this.#joining = true;
    this.#early = [];
    this.#setStatus(this.#everLive ? "reconnecting" : "connecting", detail);
  }

  /** The end of a join's answer; later ones only move the cursor of a quiet stream. */
  joined(position) {
    const resumed = this.position !== null;
    if (this.#joining) this.#settle();
    if (typeof position === "string" && (this.position === null || position > this.position)) this.position = position;
    this.#live(resumed);
  }

  receive(frame) {
    const { event } = frame;
    if (event.type === "error") return this.#refused(event.data);
    if (event.type === "sync") {
      // A snapshot always counts, even from an earlier place: the store may have been wiped.
      this.position = frame.position ?? null;
      this.state = this.id === null ? new Map((event.data ?? []).map((item) => [item.id, item])) : (event.data ?? null);
      this.#deliver(frame);
      if (this.#joining) this.#settle();
      return this.#live(false);
    }
    if (this.#joining && frame.subscriptionId === undefined && frame.position !== undefined) {
      // It may be part of our answer, or a live change that another subscription of this
      // socket was due: the order between the two is known only when the answer ends.
      this.#early.push(frame);
    } else {
      this.#apply(frame);
    }
  }

  #settle() {
    const early = this.#early.sort((a, b) => (a.position < b.position ? -1 : a.position > b.position ? 1 : 0));
    this.#joining = false;
    this.#early = [];
    for (const frame of early) this.#apply(frame);
  }

  #live(resumed) {
    if (this.status === "live") return;
    clearTimeout(this.#retry);
    this.#everLive = true;
    this.#connection.healthy();
    this.#setStatus("live", { resumed, missed: resumed ? this.#missed : 0 });
  }

  #apply(frame) {
    const { event, id, position } = frame;
    if (position !== undefined) {
      if (this.position !== null && position <= this.position) return;
      this.position = position;
    }
    this.#missed += 1;
    if (event.type !== "event" && this.state !== undefined) {
      const gone = event.type === "delete";
      if (this.id !== null) this.state = gone ? null : event.data;
      else if (gone) this.state.delete(id);
      else this.state.set(id, event.data);
    }
    this.#deliver(frame);
  }

  #deliver(frame) {
    const { event } = frame;
    const change = this.#change(frame);
    if (event.type !== "event") return this.emit(event.type, event.data ?? null, change);
    this.emit("event", event.event, change);
    if (!BUILT_IN.has(event.event.type)) this.emit(event.event.type, event.event.data, change);
  }

  #change({ event, id = this.id, timestamp, version, position }) {
    const custom = event.type === "event";
    return {
      type: event.type,
      ...(custom && { eventType: event.event.type }),
      streamName: this.name,
      groupId: this.groupId,
      id,
      data: custom ? event.event.data : (event.data ?? null),
      timestamp,
      version,
      position,
    };
  }

  /** An error of this subscription alone: the end of it, unless its code says that it will pass. */
  #refused(data) {
    const error = asError(data);
    this.emit("error", error);
    if (!this.#listeners.size) return;
    if (error.code === SLOW_CONSUMER) {
      // Changes are missing from here on to the sync, whatever another subscription of this socket still brings.
      this.#joining = true;
      return;
    }
    if (!PASSING.has(error.code)) return this.fail();
    if (!this.#joining) return;
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#connection.rejoin(this), jitter(MAX_DELAY / 2));
  }

  /** Close every listener. */
  fail() {
    this.status = "closed";
    for (const [stream, emit] of [...this.#listeners]) {
      this.#listeners.delete(stream);
      emit("status", ["closed", {}]);
    }
    this.#end();
  }

  #end() {
    clearTimeout(this.#retry);
    this.status = "closed";
    this.#connection.send("leave", this.#address());
    this.#connection.remove(this);
  }

  #setStatus(status, detail = {}) {
    this.status = status;
    this.emit("status", status, detail);
  }

  emit(name, ...args) {
    for (const [stream, emit] of [...this.#listeners]) if (this.#listeners.has(stream)) emit(name, args);
  }

  #address() {
    const { name, groupId, id, subscriptionId } = this;
    return { streamName: name, groupId, ...(id !== null && { id }), subscriptionId };
  }
}

/** One socket, opened again whenever it is lost, for all channels of an address and a token. */
class Connection {
  static #all = new Set();
  #channels = new Map();
  #groups = new Map();
  #socket = null;
  #timer;
  #turn = 0;
  #attempt = 0;
  #renewed = false;
  #announced = null;
  #online = () => this.#wake();

  static shared(url, token, WebSocket) {
    for (const known of this.#all) {
      if (known.url === url && known.token === token && known.WebSocket === WebSocket) return known;
    }
    return new Connection(url, token, WebSocket);
  }

  constructor(url, token, WebSocket) {
    Object.assign(this, { url, token, WebSocket });
    Connection.#all.add(this);
    globalThis.addEventListener?.("online", this.#online);
    this.#schedule(0);
  }

  channel(name, groupId, id, after) {
    const key = groupKey(name, groupId);
    const group = this.#groups.get(key) ?? new Set();
    for (const known of group) if (known.id === id && known.shareable && after === null) return known;
    const channel = new Channel(this, name, groupId, id, after);
    this.#groups.set(key, group.add(channel));
    this.#channels.set(channel.subscriptionId, channel);
    this.rejoin(channel);
    return channel;
  }

  rejoin(channel) {
    if (this.#socket?.readyState === 1) channel.join();
  }

  remove(channel) {
    this.#channels.delete(channel.subscriptionId);
    const key = groupKey(channel.name, channel.groupId);
    const group = this.#groups.get(key);
    if (group?.delete(channel) && !group.size) this.#groups.delete(key);
    if (this.#channels.size) return;
    Connection.#all.delete(this);
    clearTimeout(this.#timer);
    this.#turn += 1;
    globalThis.removeEventListener?.("online", this.#online);
    this.#drop();
  }

  send(type, data) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify({ type, data }));
  }

  /** A subscription went live: later failures begin with short delays again. */
  healthy() {
    this.#attempt = 0;
    this.#renewed = false;
  }

  #schedule(delay) {
    clearTimeout(this.#timer);
    const turn = ++this.#turn;
    this.#timer = setTimeout(() => this.#connect(turn), delay);
  }

  async #connect(turn) {
    let token = this.token;
    if (typeof token === "function") {
      let failure;
      try {
        token = await token();
      } catch (error) {
        failure = new StreamError("TOKEN_FAILED", "the token function failed", error);
      }
      if (turn !== this.#turn) return; // Closed, or begun anew, while the token was fetched.
      if (failure) {
        this.#emitError(failure);
        return this.#lost(1006);
      }
    }
    let socket;
    try {
      socket = this.#open(token || null);
    } catch (error) {
      return this.#fail(new StreamError("CONNECT_FAILED", error.message, error));
    }
    this.#socket = socket;
    this.#announced = null;
    const mine = (act) => (event) => socket === this.#socket && act(event);
    const tooSlow = mine(() => {
      this.#drop();
      this.#lost(1006);
    });
    this.#timer = setTimeout(tooSlow, CONNECT_TIMEOUT);
    socket.onopen = mine(() => {
      clearTimeout(this.#timer);
      for (const channel of [...this.#channels.values()]) channel.join();
    });
    socket.onmessage = mine((event) => this.#receive(event.data));
    const ended = (code) => {
      this.#socket = null;
      this.#lost(code);
    };
    socket.onclose = mine((event) => ended(event.code));
    // A close event follows; only where Node cannot connect at all it leaves the socket "connecting".
    socket.onerror = mine(() => socket.readyState === 0 && ended(1006));
  }

  #open(token) {
    if (token === null) return new this.WebSocket(this.url);
    if (typeof token !== "string") throw new TypeError("the token function must return text");
    // Only these characters may stand in a subprotocol; elsewhere a token would be seen in fewer logs.
    if (/^[\w!#$%&'*+.^`|~-]+$/.test(token) && token !== "Authorization") {
      return new this.WebSocket(this.url, ["Authorization", token]);
    }
    const url = new URL(this.url);
    url.searchParams.set("authToken", token);
    return new this.WebSocket(url.href);
  }

  #receive(data) {
    let frame;
    try {
      frame = JSON.parse(data);
    } catch (error) {
      return report("a frame is not JSON", error);
    }
    if (frame?.type === "joined") this.#channels.get(frame.subscriptionId)?.joined(frame.position);
    else if (frame?.type === "stream" && frame.event) this.#route(frame);
    else if (frame?.type === "error") {
      const error = asError(frame.data);
      if (ANNOUNCEMENTS.has(error.code)) this.#announced = error;
      else this.#emitError(error);
    }
  }

  #route(frame) {
    const { subscriptionId } = frame;
    for (const channel of [...(this.#groups.get(groupKey(frame.streamName, frame.groupId)) ?? [])]) {
      const mine = subscriptionId === undefined ? concerns(frame, channel) : subscriptionId === channel.subscriptionId;
      if (mine) channel.receive(frame);
    }
  }

  #lost(code) {
    let delay = jitter(Math.min(MAX_DELAY, BASE_DELAY * 2 ** this.#attempt));
    if (code === UNAUTHENTICATED && typeof this.token === "function" && !this.#renewed) {
      this.#renewed = true;
      delay = 0;
    } else if (code === UNAUTHENTICATED || code === FORBIDDEN) {
      const said = code === UNAUTHENTICATED ? "UNAUTHENTICATED" : "FORBIDDEN";
      return this.#fail(this.#announced ?? new StreamError(said, `the server closed the connection (${code})`));
    } else if (RESTARTING.has(code)) {
      delay = jitter(2 * BASE_DELAY);
    }
    this.#attempt = Math.min(this.#attempt + 1, 10);
    this.#retryIn(delay, code);
  }

  #retryIn(delay, code) {
    this.#schedule(delay);
    for (const channel of [...this.#channels.values()]) channel.lost({ code, attempt: this.#attempt, delay });
  }

  #fail(error) {
    this.#emitError(error);
    for (const channel of [...this.#channels.values()]) channel.fail();
  }

  #emitError(error) {
    for (const channel of [...this.#channels.values()]) channel.emit("error", error);
  }

  /** The network is back: what still looks open may be dead without knowing it. */
  #wake() {
    this.#drop();
    this.#attempt = 0;
    this.#retryIn(0, 1006);
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }
}

/** A change concerns its group and its item; a snapshot or an error only whom it was asked by. */
function concerns(frame, channel) {
  const id = frame.id ?? null;
  if (frame.event.type === "sync" || frame.event.type === "error") return channel.id === id;
  return channel.id === null || channel.id === id;
}

function groupKey(name, groupId) {
  return `${name}\n${groupId}`;
}

function asError(data) {
  return new StreamError(data?.code ?? "UNKNOWN", data?.message, data);
}

function jitter(limit) {
  return Math.random() * limit;
}

function report(what, error) {
  console.error(`motia-core client: ${what}:`, error);
}

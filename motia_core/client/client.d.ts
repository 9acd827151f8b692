/** Types of client.js: live streams over one shared WebSocket, with reconnect and resume. */

/** What every item on the wire has; your own item type adds its fields. */
export interface Item {
  id: string;
}

/** Where a stream stands: see {@link StreamHandle.status}. */
export type Status = "connecting" | "open" | "live" | "reconnecting" | "closed";

/** What a status change is told with; which fields there are depends on the status. */
export interface StatusDetail {
  /** `live`: whether the stream went on from its position, rather than from a new snapshot. */
  resumed?: boolean;
  /** `live` and resumed: how many changes had been missed and were delivered just before. */
  missed?: number;
  /** `connecting` and `reconnecting`: the close code of the connection that was lost. */
  code?: number;
  /** `connecting` and `reconnecting`: how many attempts have failed in a row. */
  attempt?: number;
  /** `connecting` and `reconnecting`: milliseconds until the next attempt. */
  delay?: number;
}

/** What all deliveries have in common. */
export interface Delivery {
  streamName: string;
  groupId: string;
  /** Milliseconds since the epoch, rising along the stream; absent on a `sync` given from kept state. */
  timestamp?: number;
  /** The place in the stream's order: opaque, and compares with other positions as a plain string. */
  position?: string;
}

/** A snapshot: all items of the group, or the one item (`null`: there is none). */
export interface SyncChange<Data> extends Delivery {
  type: "sync";
  id: string | null;
  data: Data;
}

/** A write: `data` is the item as it is now, of a delete as it was. */
export interface ItemChange<T> extends Delivery {
  type: "create" | "update" | "delete";
  id: string;
  data: T;
  /** Opaque; for a conditional write. */
  version?: string;
}

/** A custom event; `id` is `null` where it was sent to the whole group. */
export interface EventChange<E = unknown> extends Delivery {
  type: "event";
  eventType: string;
  id: string | null;
  data: E;
}

/** A custom event as it was sent. */
export interface CustomEvent<E = unknown> {
  type: string;
  data: E;
}

/** An error with the server's code, such as `STREAM_ACCESS_DENIED`. */
export declare class StreamError extends Error {
  constructor(code: string, message?: string, data?: unknown);
  /** Stable: meant for programs. `message` is meant for people. */
  readonly code: string;
  /** All that the server said; of `TOKEN_FAILED` and `CONNECT_FAILED` the error behind it. */
  readonly data: unknown;
}

/**
 * An open subscription.
 *
 * `T` is the item's type, `Data` what a snapshot holds (`T[]` of a group, `T | null` of an
 * item), `State` what is kept up to date, and `Events` the custom events by name.
 *
 * A handler that throws or rejects is reported with `console.error` and disturbs nobody.
 * Items are shared with {@link state} and with other handlers: read them, do not change them.
 */
export interface StreamHandle<T, Data, State, Events extends object = Record<string, unknown>> {
  /**
   * Call `handler` at each delivery of this kind. Returns a function that takes it off again.
   *
   * A custom event reaches `"event"` and the handlers of its own name, except where that
   * name is one of the built-in kinds: then `"event"` alone.
   */
  on(name: "sync", handler: (data: Data, change: SyncChange<Data>) => unknown): () => void;
  on(name: "create" | "update" | "delete", handler: (item: T, change: ItemChange<T>) => unknown): () => void;
  on(name: "event", handler: (event: CustomEvent, change: EventChange) => unknown): () => void;
  on(name: "status", handler: (status: Status, detail: StatusDetail) => unknown): () => void;
  on(name: "error", handler: (error: StreamError) => unknown): () => void;
  on<Name extends Exclude<keyof Events & string, BuiltIn>>(
    name: Name,
    handler: (data: Events[Name], change: EventChange<Events[Name]>) => unknown,
  ): () => void;
  /** Take a handler off; of one that is not there, nothing happens. */
  off(name: string, handler: (...args: never[]) => unknown): void;
  /** End the subscription; the socket closes with the last one that uses it. */
  close(): void;
  /**
   * `connecting` until there is a socket, `open` until the server has answered, then `live`;
   * `reconnecting` after a loss, until it is `open` and `live` again; `closed` at the end,
   * or when the server refused.
   */
  readonly status: Status;
  /** The last position delivered: give it as `after` to go on from there. */
  readonly position: string | null;
  /**
   * The items as they are now, kept up to date before handlers are called: of a group a Map
   * by id, of an item the item or `null`. `undefined` before the first `sync`.
   */
  readonly state: State | undefined;
}

/** The names that custom events cannot be listened to under. */
export type BuiltIn = "sync" | "create" | "update" | "delete" | "event" | "status" | "error";

/** A subscription to all items of a group. */
export type GroupStream<T extends object = Item, Events extends object = Record<string, unknown>> = StreamHandle<
  T,
  T[],
  ReadonlyMap<string, T>,
  Events
>;

/** A subscription to one item. */
export type ItemStream<T extends object = Item, Events extends object = Record<string, unknown>> = StreamHandle<
  T,
  T | null,
  T | null,
  Events
>;

/** A token, or a function that is asked for one at each connect. */
export type Token = string | null | (() => string | null | Promise<string | null>);

/** The part of a WebSocket class that is used; the `ws` package's fits. */
export interface WebSocketClass {
  new (url: string, protocols?: string[]): {
    readyState: number;
    onopen: unknown;
    onmessage: unknown;
    onclose: unknown;
    onerror: unknown;
    send(data: string): void;
    close(): void;
  };
}

export interface ConnectOptions {
  groupId: string;
  /** Go on after this position, rather than with a snapshot; if its history is gone, a snapshot comes all the same. */
  after?: string | null;
  /** Who is listening. Subscriptions with the same address and token share one socket. */
  auth?: { token?: Token };
  /**
   * The server's address (`ws:`, `wss:`, `http:`, `https:`, or relative to the page). Left
   * out: the server that `client.js` was loaded from, else the page's, else
   * `ws://127.0.0.1:3112`.
   */
  url?: string;
  /** A WebSocket class to use; the global one if left out (Node has it from 22 on). */
  WebSocket?: WebSocketClass;
}

/**
 * Subscribe to one item, or to all items of a group; connects by itself and stays connected.
 *
 * Throws a `TypeError` at once if an argument makes no sense. All that goes wrong later
 * reaches the `"error"` handlers.
 */
export declare function connectStream<T extends object = Item, Events extends object = Record<string, unknown>>(
  name: string,
  options: ConnectOptions & { id: string },
): ItemStream<T, Events>;
export declare function connectStream<T extends object = Item, Events extends object = Record<string, unknown>>(
  name: string,
  options: ConnectOptions & { id?: null },
): GroupStream<T, Events>;

// Compiled, never run: what the types of client.js must accept and must refuse.
import {
  connectStream,
  StreamError,
  type GroupStream,
  type ItemStream,
  type Status,
  type StatusDetail,
} from "../../../motia_core/client/client.js";

interface Doc {
  id: string;
  title: string;
}
interface Events {
  wave: { from: string };
  cleared: null;
}

const group: GroupStream<Doc, Events> = connectStream<Doc, Events>("documents", { groupId: "w1" });
const item: ItemStream<Doc, Events> = connectStream<Doc, Events>("documents", {
  groupId: "w1",
  id: "a",
  url: "wss://example.org/live",
  after: null,
  auth: { token: async () => "token" },
  WebSocket,
});

group.on("sync", (docs, change) => {
  const titles: string[] = docs.map((doc) => doc.title);
  const kind: "sync" = change.type;
  return [titles, kind];
});
item.on("sync", (doc) => {
  const title: string | undefined = doc?.title;
  // @ts-expect-error there may be no item
  doc.title;
  return title;
});
const off: () => void = group.on("update", (doc, change) => {
  const version: string | undefined = change.version;
  const id: string = change.id;
  return [doc.title, version, id];
});
off();
group.on("wave", (data, change) => {
  const from: string = data.from;
  const name: string = change.eventType;
  return [from, name];
});
group.on("cleared", (nothing: null) => nothing);
group.on("event", (event) => {
  const type: string = event.type;
  // @ts-expect-error what is in it is not known here
  event.data.from;
  return type;
});
group.on("status", (status: Status, detail: StatusDetail) => [status, detail.missed]);
group.on("error", (error: StreamError) => error.code);
group.off("wave", () => {});
group.close();

const size: number | undefined = group.state?.size;
const title: string | undefined = group.state?.get("a")?.title;
const one: Doc | null | undefined = item.state;
const position: string | null = group.position;
export const used = [size, title, one, position];

// Without types of one's own.
connectStream("documents", { groupId: "w1" }).on("anything", (data: unknown) => data);
connectStream("documents", { groupId: "w1" }).on("create", (item) => item.id);

// @ts-expect-error a group is needed
connectStream("documents", {});
// @ts-expect-error no such event
group.on("waved", () => {});
// @ts-expect-error an item has no list
item.on("sync", (docs) => docs.length);
// @ts-expect-error the state is not for writing
group.state?.set("a", { id: "a", title: "" });
// @ts-expect-error nor is the status
group.status = "live";
// @ts-expect-error a token is text
connectStream("documents", { groupId: "w1", auth: { token: 7 } });
// @ts-expect-error items of a stream are objects
connectStream<string>("documents", { groupId: "w1" });

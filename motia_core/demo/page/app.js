/** The demo: one document, edited in as many tabs as you like. */

import { Chart } from "./chart.js";
import { connectStream } from "./client.js";
import { Feed } from "./feed.js";
import { Field } from "./field.js";
import { whoAmI } from "./identity.js";
import { plug, PluggedSocket, pluggedFetch } from "./plug.js";
import { initials, Presence } from "./presence.js";

const GROUP = "shared";
const CARET_PAUSE = 100;

const $ = (id) => document.getElementById(id);
const documentId = new URLSearchParams(location.search).get("doc") || "welcome";
const me = await whoAmI();
document.documentElement.style.setProperty("--my-hue", me.hue);

async function send(method, path, body) {
  const headers = { "content-type": "application/json" };
  const response = await pluggedFetch(path, { method, headers, body: body && JSON.stringify(body) });
  const { ok, status } = response;
  if (!ok) throw Object.assign(new Error(`${method} ${path}: ${status}`), { status });
  return response.json();
}

const here = `docs/${encodeURIComponent(documentId)}`;
const notify = (type, data) => send("POST", `${here}/notify`, { type, data }).catch(() => {});

// --- the document

const fields = Object.fromEntries(
  ["title", "content"].map((name) => {
    const save = async (text, base) => {
      const { position } = await send("PATCH", here, { [name]: text, base, editorId: me.id });
      return position;
    };
    return [name, new Field($(name), $(`${name}-mirror`), { save, changed: showSaved })];
  }),
);

function showSaved(error) {
  const pending = Object.values(fields).some((field) => field.pending);
  $("saved").textContent = !pending ? "All changes saved" : error ? "Kept here until it can be sent" : "Saving…";
}

function receive(item, change, anew) {
  if (!item) return open();
  const own = item.editorId === me.id;
  for (const [name, field] of Object.entries(fields)) {
    field.receive(item[name], change.position, { own, writer: item.editorId, anew });
    $(name).disabled = false;
  }
  document.title = `${item.title || "Untitled"} · motia-core`;
  $("wave").disabled = false;
  if (!own && !anew && item.editorId) presence.writes(item.editorId);
}

function open() {
  send("POST", `${here}/open`).catch(() => setTimeout(open, 1000));
}

// --- carets

let caretTimer;
let caretSent = "";

function sayCaret() {
  clearTimeout(caretTimer);
  caretTimer = setTimeout(() => {
    const element = document.activeElement;
    const field = element?.id;
    if (!fields[field]) return;
    if (fields[field].pending) return sayCaret(); // The text first: a place in it means nothing without it.
    const data = { ...me, field, start: element.selectionStart, end: element.selectionEnd };
    if (JSON.stringify(data) === caretSent) return;
    caretSent = JSON.stringify(data);
    notify("caret", data);
  }, CARET_PAUSE);
}

document.addEventListener("selectionchange", sayCaret);
for (const name of Object.keys(fields)) {
  for (const event of ["select", "keyup", "focus", "input"]) $(name).addEventListener(event, sayCaret);
}
$("title").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault(); // A title has one line.
  $("content").focus();
});

// --- the streams

const feed = new Feed($("feed"), $("entry"), $("noise"));
const presence = new Presence({
  me,
  room: documentId,
  list: $("people"),
  template: $("person"),
  send: (path, body) => send("POST", path, body),
});
const options = { url: new URL("./", location.href).href, WebSocket: PluggedSocket };
const shared = connectStream("documents", { ...options, groupId: GROUP, id: documentId });
const people = connectStream("presence", { ...options, groupId: documentId });
const insights = connectStream("insights", { ...options, groupId: GROUP, id: documentId });
const metrics = connectStream("metrics", { ...options, groupId: "live", id: "current" });

for (const kind of ["sync", "create", "update", "delete", "event"]) {
  for (const stream of [shared, people, insights, metrics]) stream.on(kind, (_, change) => feed.add(change));
}
shared.on("sync", (item, change) => receive(item, change, true));
shared.on("create", (item, change) => receive(item, change, true));
shared.on("update", (item, change) => receive(item, change, false));
shared.on("delete", open);
shared.on("caret", (data) => {
  if (data.id === me.id) return;
  for (const [name, field] of Object.entries(fields)) {
    if (name === data.field) field.carets.place(data, data.start, data.end);
    else field.carets.remove(data.id);
  }
});
shared.on("wave", (person) => toast(person, person.id === me.id ? "You waved" : `${person.name} waves`));

people.on("delete", (person) => {
  for (const field of Object.values(fields)) field.carets.remove(person.id);
});
for (const kind of ["sync", "create", "update", "delete"]) people.on(kind, () => presence.show(people.state));
$("people").addEventListener("drawn", () => {
  const names = presence.writers;
  $("typing").textContent = names.length === 0 ? "" : names.length === 1 ? `${names[0]} is writing` : "Several people are writing";
});

// --- what steps make of it

const chart = new Chart(document.querySelector(".chart"), { edits: $("edits"), people: $("tabs") });
for (const kind of ["sync", "create", "update"]) {
  insights.on(kind, (item) => item && showInsight(item));
  metrics.on(kind, (item) => item && chart.show(item));
}

function showInsight({ words, minutes, edits }) {
  const some = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
  $("insight").textContent = `${some(words, "word")} · ${minutes} min to read · ${some(edits, "edit")}`;
}

// --- the connection

let settle;

function show(status, text) {
  clearTimeout(settle);
  $("connection").dataset.status = status;
  $("connection-text").textContent = text;
}

shared.on("status", (status, { resumed, missed, delay }) => {
  if (status === "reconnecting") show(status, delay > 1500 ? `Reconnecting in ${Math.round(delay / 1000)} s` : "Reconnecting");
  else if (status === "connecting") show(status, "Connecting");
  else if (status === "live") {
    const changes = missed === 1 ? "1 missed change" : `${missed} missed changes`;
    show("live", resumed ? `Resumed: ${missed ? changes : "nothing missed"}` : "Live");
    if (resumed) settle = setTimeout(() => show("live", "Live"), 6000);
    for (const field of Object.values(fields)) field.flush();
    presence.beat();
  }
});
for (const stream of [shared, people, insights, metrics]) {
  stream.on("error", (error) => show(stream.status === "closed" ? "closed" : $("connection").dataset.status, error.message));
}

$("plug").addEventListener("click", () => {
  const pulled = $("plug").getAttribute("aria-pressed") !== "true";
  $("plug").setAttribute("aria-pressed", pulled);
  $("plug").textContent = pulled ? "Plug in" : "Unplug";
  plug(!pulled);
});

// --- the rest

function toast(person, text) {
  const note = document.createElement("p");
  note.className = "toast";
  note.style.setProperty("--hue", person.hue);
  const face = document.createElement("span");
  face.className = "face";
  face.textContent = initials(person.name);
  face.setAttribute("aria-hidden", "true");
  note.append(face, text);
  $("toasts").append(note);
  note.addEventListener("animationend", ({ animationName }) => animationName === "leave" && note.remove());
}

$("wave").addEventListener("click", () => notify("wave", { id: me.id, name: me.name, hue: me.hue }));
$("another").href = location.href;

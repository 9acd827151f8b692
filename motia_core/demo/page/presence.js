/** Who is here: kept alive by heartbeats, drawn from the presence stream. */

import { HUES, remember } from "./identity.js";

const BEAT = 4000;
const TYPING = 2500;

/** "Quiet Heron": QH. */
export function initials(name) {
  return name.split(/\s+/).map((word) => [...word][0]).slice(0, 2).join("");
}

export class Presence {
  #me;
  #list;
  #template;
  #send;
  #typing = new Map();
  #people = new Map();
  #settled = false;

  /** `send(path, body)` posts JSON. */
  constructor({ me, room, list, template, send }) {
    Object.assign(this, { room });
    this.#me = me;
    this.#list = list;
    this.#template = template;
    this.#send = send;
    this.beat();
    setInterval(() => this.beat(), BEAT);
    document.addEventListener("visibilitychange", () => document.hidden || this.beat());
    addEventListener("pageshow", (event) => event.persisted && this.beat());
    addEventListener("pagehide", () => navigator.sendBeacon(`${this.#path}/leave`));
  }

  get #path() {
    return `presence/${encodeURIComponent(this.room)}/${encodeURIComponent(this.#me.id)}`;
  }

  /** Say that this tab is here. */
  beat() {
    const { name, hue } = this.#me;
    this.#send(this.#path, { name, hue }).catch(() => {}); // The next beat tries again.
  }

  /** Show these people (a Map by id). */
  show(people) {
    this.#people = people;
    if (!this.#settled && people.has(this.#me.id)) this.#settle();
    this.#draw();
  }

  /** Once, on arrival: take a colour that nobody else has. */
  #settle() {
    this.#settled = true;
    const taken = new Set([...this.#people.values()].filter(({ id }) => id !== this.#me.id).map(({ hue }) => hue));
    const free = HUES.filter((hue) => !taken.has(hue));
    if (taken.has(this.#me.hue) && free.length) this.#become({ hue: free[Math.floor(Math.random() * free.length)] });
  }

  #become(change) {
    Object.assign(this.#me, change);
    remember(this.#me);
    this.beat();
  }

  /** Somebody is writing; shown until it has been a while. */
  writes(id) {
    clearTimeout(this.#typing.get(id));
    const over = () => {
      this.#typing.delete(id);
      this.#draw();
    };
    this.#typing.set(id, setTimeout(over, TYPING));
    this.#draw();
  }

  /** Names of the others who are writing. */
  get writers() {
    return [...this.#people.values()].filter(({ id }) => id !== this.#me.id && this.#typing.has(id)).map(({ name }) => name);
  }

  #draw() {
    const known = new Map([...this.#list.children].map((row) => [row.dataset.id, row]));
    const people = [...this.#people.values()].sort((a, b) => (b.id === this.#me.id) - (a.id === this.#me.id) || (a.name < b.name ? -1 : 1));
    this.#list.replaceChildren(...people.map((person) => this.#row(person, known.get(person.id))));
    this.#list.dispatchEvent(new CustomEvent("drawn"));
  }

  #row(person, row = this.#template.content.cloneNode(true).firstElementChild) {
    const own = person.id === this.#me.id;
    row.dataset.id = person.id;
    row.style.setProperty("--hue", person.hue);
    row.querySelector(".face").textContent = initials(person.name);
    const name = row.querySelector(".name");
    if (own && name.readOnly) this.#renameable(name);
    name.setAttribute("aria-label", own ? "Your name" : "Name");
    if (name !== document.activeElement) name.value = person.name;
    row.querySelector(".doing").textContent = own ? "you" : this.#typing.has(person.id) ? "writing…" : "";
    return row;
  }

  #renameable(input) {
    input.readOnly = false;
    input.removeAttribute("tabindex");
    input.addEventListener("keydown", (event) => event.key === "Enter" && input.blur());
    input.addEventListener("change", () => {
      const name = input.value.trim();
      if (name) this.#become({ name });
      else input.value = this.#me.name;
    });
  }
}

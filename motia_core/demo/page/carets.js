/** The carets and selections of others, drawn in a mirror that lies under a text field. */

import { difference, moved } from "./text.js";

/** How long a name stays at a caret that does not move. */
const NAMED = 3000;

export class Carets {
  #mirror;
  #field;
  #people = new Map();

  constructor(field, mirror) {
    this.#field = field;
    this.#mirror = mirror;
    this.draw();
  }

  /** `{id, name, hue}` is at [start, end] of the text. */
  place(person, start, end) {
    const known = this.#people.get(person.id);
    const mark = known?.mark ?? newMark();
    clearTimeout(known?.timer);
    mark.style.setProperty("--hue", person.hue);
    mark.flag.dataset.name = person.name;
    mark.classList.add("recent");
    const timer = setTimeout(() => mark.classList.remove("recent"), NAMED);
    this.#people.set(person.id, { start, end, mark, timer });
    this.draw();
  }

  remove(id) {
    if (this.#people.delete(id)) this.draw();
  }

  /** The text became another: move everybody along; who wrote it stands behind what was written. */
  follow(before, after, writer) {
    for (const [id, caret] of this.#people) {
      if (id === writer) {
        const { start, insert } = difference(before, after);
        caret.start = caret.end = start + insert.length;
      } else {
        caret.start = moved(caret.start, before, after);
        caret.end = moved(caret.end, before, after);
      }
    }
    this.draw();
  }

  /** The mirror holds the same text, so it also gives the field its height. */
  draw() {
    const text = this.#field.value;
    const parts = [];
    let at = 0;
    for (const { start, end, mark } of [...this.#people.values()].sort((a, b) => a.start - b.start)) {
      const from = Math.min(Math.max(Math.min(start, end), at), text.length);
      const to = Math.min(Math.max(start, end, from), text.length);
      mark.selected.textContent = text.slice(from, to);
      parts.push(text.slice(at, from), mark);
      at = to;
    }
    // A last line that is empty has no height of its own.
    parts.push(`${text.slice(at)}\u200b`);
    this.#mirror.replaceChildren(...parts);
  }
}

function newMark() {
  const mark = document.createElement("span");
  mark.className = "caret";
  mark.flag = document.createElement("span");
  mark.flag.className = "flag";
  mark.selected = document.createElement("span");
  mark.selected.className = "selected";
  mark.append(mark.flag, mark.selected);
  return mark;
}

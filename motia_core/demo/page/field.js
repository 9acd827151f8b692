/** A text field that several people edit: typing goes out, text from elsewhere comes in. */

import { Carets } from "./carets.js";
import { difference, SharedText } from "./text.js";

const PAUSE = 150;
const RETRY = 1000;

export class Field {
  #element;
  #save;
  #changed;
  #text = new SharedText();
  #timer;
  #composing = false;
  #held = [];

  /**
   * `save(text, base)` stores a text that was built upon `base`, and gives the position of its change; it fails
   * with the status 409 if the server has another text, which the stream will bring. `changed()` is told
   * whenever `pending` may have changed.
   */
  constructor(element, mirror, { save, changed }) {
    this.#element = element;
    this.#save = save;
    this.#changed = changed;
    this.carets = new Carets(element, mirror);
    element.addEventListener("input", () => this.#typed());
    element.addEventListener("compositionstart", () => (this.#composing = true));
    element.addEventListener("compositionend", () => {
      this.#composing = false;
      this.#typed();
      for (const news of this.#held.splice(0)) this.receive(...news);
    });
  }

  /** Whether something typed here has not been stored yet. */
  get pending() {
    return this.#text.pending;
  }

  /** The stream shows `text`: see `SharedText`. */
  receive(text, position, { own = false, writer = null, anew = false } = {}) {
    // What an input method is at work on must not be touched; and to merge now what cannot be shown would lose it.
    if (this.#composing) {
      this.#held.push([text, position, { own, writer, anew }]);
      return;
    }
    if (anew) this.#text.restart(text, position);
    else this.#text.receive(text, position, own);
    this.#show(writer);
    this.flush();
    this.#changed();
  }

  /** Send what is pending, if nothing is on its way. */
  async flush() {
    clearTimeout(this.#timer);
    const flight = this.#text.take();
    if (!flight) return;
    try {
      this.#text.stored(flight, await this.#save(flight.text, flight.base));
      this.#changed();
      this.flush();
    } catch (error) {
      this.#text.failed(flight, error.status === 409);
      this.#changed(error.status === 409 ? null : error);
      this.#timer = setTimeout(() => this.flush(), RETRY);
    }
  }

  #typed() {
    const before = this.#text.local;
    this.#text.local = this.#element.value;
    this.carets.follow(before, this.#text.local, null);
    this.#changed();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.flush(), PAUSE);
  }

  /** Bring the field up to date, moving caret and selection along with the text. */
  #show(writer = null) {
    const before = this.#element.value;
    const after = this.#text.local;
    if (before === after) return;
    const { start, end, insert } = difference(before, after);
    this.#element.setRangeText(insert, start, end, "preserve");
    this.carets.follow(before, after, writer);
  }
}

/**
 * Text that several people edit, without a server that understands text.
 *
 * The rule: what you have typed and the server has not confirmed is never overwritten.
 * Text from elsewhere is merged into it (three ways, by the span that each side changed);
 * where both changed the same span, yours stays and is sent again, so that the order of
 * the stream decides, alike for everybody. What is sent says upon which text it was built: the
 * server takes it only if that is what it has, so that nobody undoes what they have not seen.
 */

/** How `before` became `after`: its span [start, end) was replaced with `insert`. */
export function difference(before, after) {
  const limit = Math.min(before.length, after.length);
  let start = 0;
  while (start < limit && before[start] === after[start]) start += 1;
  let end = before.length;
  let tail = after.length;
  while (end > start && tail > start && before[end - 1] === after[tail - 1]) {
    end -= 1;
    tail -= 1;
  }
  return { start, end, insert: after.slice(start, tail) };
}

/** Where an offset into `before` lies in `after`. */
export function moved(offset, before, after) {
  const { start, end, insert } = difference(before, after);
  if (offset <= start) return offset;
  if (offset >= end) return offset + insert.length - (end - start);
  return start + insert.length;
}

/** Both changes to `base`, or `mine` where they are in each other's way. */
export function merge(base, mine, theirs) {
  const a = difference(base, mine);
  const b = difference(base, theirs);
  if (a.start === b.start && a.end === b.end && a.start === a.end) {
    if (a.insert.startsWith(b.insert)) return mine;
    if (b.insert.startsWith(a.insert)) return theirs;
    return base.slice(0, a.start) + b.insert + a.insert + base.slice(a.end);
  }
  const [first, second] = a.start < b.start || (a.start === b.start && a.end < b.end) ? [a, b] : [b, a];
  if (first.end > second.start) return mine;
  return base.slice(0, first.start) + first.insert + base.slice(first.end, second.start) + second.insert + base.slice(second.end);
}

/** One text field: what is shown (`local`), and what the server is known to have (`base`). */
export class SharedText {
  local = "";
  base = "";
  #flight = null;
  #lost = new Set();
  #seen = "";

  /** Whether something typed here is not at the server yet. */
  get pending() {
    return this.local !== this.base;
  }

  /** The next text to send, if it is time: one write at a time, so that they cannot overtake each other. */
  take() {
    if (this.#flight || !this.pending) return null;
    this.#flight = { text: this.local, base: this.base, position: null };
    return this.#flight;
  }

  /** The server has stored what `take` gave; the stream may have shown it already. */
  stored(flight, position) {
    flight.position = position;
    this.#lost.clear(); // None of them can have been stored unseen: this one would have been refused.
    if (this.#flight === flight && position <= this.#seen) this.#flight = null;
  }

  /** What `take` gave was not stored; or, unless it was `refused`, it may have been, and only the answer was lost. */
  failed(flight, refused = false) {
    if (this.#flight !== flight) return;
    this.#flight = null;
    if (!refused) this.#lost.add(flight.text);
  }

  /** The stream shows `text` at `position`, in a change made by this page (`own`) or not. */
  receive(text, position, own) {
    this.#seen = position;
    if (own && this.#sent(text)) {
      this.base = text;
      if (this.#flight?.text === text) this.#flight = null;
    } else if (text !== this.base) {
      this.local = this.pending ? merge(this.base, this.local, text) : text;
      this.base = text;
    }
  }

  /** The stream begins anew with `text`: whether a write on its way is in it, nobody can tell. */
  restart(text, position) {
    if (this.#sent(text)) this.base = text;
    this.#flight = null;
    this.#lost.clear();
    this.receive(text, position, false);
  }

  /** Whether what is typed here grew out of `text`: to merge it into that would double it. */
  #sent(text) {
    return this.#flight?.text === text || this.#lost.has(text);
  }
}

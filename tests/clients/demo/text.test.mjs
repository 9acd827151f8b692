// The demo's shared text, without a browser. Exits with an error if anything is amiss.
import assert from "node:assert/strict";
import { test } from "node:test";

const { difference, merge, moved, SharedText } = await import(process.env.TEXT_MODULE);

test("difference rebuilds the text", () => {
  for (const [before, after] of [["", ""], ["", "a"], ["abc", "abc"], ["aaa", "aa"], ["abc", "xabcx"], ["one two", "one 2 two"]]) {
    const { start, end, insert } = difference(before, after);
    assert.equal(before.slice(0, start) + insert + before.slice(end), after);
  }
});

test("an offset stays with what it was at", () => {
  assert.equal(moved(2, "abcd", "XXabcd"), 4);
  assert.equal(moved(1, "abcd", "abcdXX"), 1);
  assert.equal(moved(4, "abcd", "ad"), 2);
  assert.equal(moved(2, "abcd", "ad"), 1);
});

test("changes in different places are both kept", () => {
  assert.equal(merge("one two", "ONE two", "one TWO"), "ONE TWO");
  assert.equal(merge("one two", "one TWO", "ONE two"), "ONE TWO");
  assert.equal(merge("one two", "one", "zero one two"), "zero one");
});

test("what is typed at the same place is both kept, and once if it is the same", () => {
  assert.equal(merge("ab", "aXb", "aYb"), "aYXb");
  assert.equal(merge("ab", "aXYb", "aXb"), "aXYb");
  assert.equal(merge("ab", "aXb", "aXYb"), "aXYb");
});

test("where both changed the same words, mine stay", () => {
  assert.equal(merge("one two", "one 2", "one deux"), "one 2");
});

test("unconfirmed text is not overwritten by an older state", () => {
  const field = new SharedText();
  field.restart("x", "p1");
  field.local = "xa";
  const flight = field.take();
  field.local = "xab";
  assert.equal(field.take(), null, "one write at a time");
  field.receive("xa", "p2", true);
  field.stored(flight, "p2");
  assert.equal(field.local, "xab");
  assert.equal(field.take().text, "xab");
});

test("text that was typed and taken back while on its way does not come back", () => {
  const field = new SharedText();
  field.restart("x", "p1");
  field.local = "xa";
  const flight = field.take();
  field.local = "x";
  field.receive("xa", "p2", true);
  field.stored(flight, "p2");
  assert.equal(field.local, "x");
  assert.equal(field.take().text, "x");
});

test("a write that failed is sent again", () => {
  const field = new SharedText();
  field.restart("x", "p1");
  field.local = "xa";
  field.failed(field.take());
  assert.equal(field.take().text, "xa");
});

test("a write whose answer was lost is not doubled when the stream shows it", () => {
  for (const typed of ["aXbY", "ab"]) {
    for (const anew of [false, true]) {
      const field = new SharedText();
      field.restart("ab", "p1");
      field.local = "aXb";
      const flight = field.take();
      field.local = typed;
      field.failed(flight); // the server has stored it all the same
      if (anew) field.restart("aXb", "p2");
      else field.receive("aXb", "p2", true);
      assert.equal(field.local, typed);
      assert.equal(field.take().base, "aXb");
    }
  }
});

test("a snapshot frees a write that nobody will confirm", () => {
  const field = new SharedText();
  field.restart("x", "p5");
  field.local = "xa";
  field.take();
  field.restart("y", "p1");
  assert.equal(field.pending, true);
  assert.notEqual(field.take(), null);
});

/** Numbers in [0, below), the same at every run. */
function chance(seed) {
  let state = seed;
  return (below) => {
    state = (state * 1664525 + 1013904223) % 4294967296;
    return Math.floor((state / 4294967296) * below);
  };
}

test("tabs that type at random end with the same text, whatever arrives when", () => {
  for (let seed = 1; seed <= 300; seed += 1) {
    const random = chance(seed);
    const log = [{ text: "some text to begin with", position: "p0000", by: null }];
    const tabs = [0, 1, 2].map((id) => {
      const field = new SharedText();
      field.restart(log[0].text, log[0].position);
      return { id, field, read: 1, flight: null, answer: null };
    });
    const send = (tab) => {
      tab.flight ??= tab.field.take();
    };
    const step = (tab, what, typing) => {
      if (what === 0 && typing) {
        const at = random(tab.field.local.length + 1);
        const cut = random(3) === 0 ? random(3) : 0;
        tab.field.local = tab.field.local.slice(0, at) + "abc"[tab.id] + tab.field.local.slice(at + cut);
      } else if (what === 1) send(tab);
      else if (what === 2 && tab.flight && !tab.answer) {
        if (random(5) === 0 || tab.flight.base !== log.at(-1).text) {
          tab.field.failed(tab.flight);
          tab.flight = null;
          return;
        }
        tab.answer = `p${String(log.length).padStart(4, "0")}`;
        log.push({ text: tab.flight.text, position: tab.answer, by: tab.id });
      } else if (what === 3 && tab.answer) {
        tab.field.stored(tab.flight, tab.answer);
        tab.flight = tab.answer = null;
      } else if (what === 4 && tab.read < log.length) {
        const { text, position, by } = log[tab.read];
        tab.read += 1;
        tab.field.receive(text, position, by === tab.id);
      }
    };
    for (let turn = 0; turn < 400; turn += 1) step(tabs[random(3)], random(5), true);
    let turns = 0;
    const busy = (tab) => tab.flight || tab.field.pending || tab.read < log.length;
    while (tabs.some(busy)) {
      step(tabs[random(3)], random(5), false);
      assert.ok((turns += 1) < 100_000, `seed ${seed}: they never agree`);
    }
    for (const tab of tabs) assert.equal(tab.field.local, log.at(-1).text, `seed ${seed}`);
  }
});

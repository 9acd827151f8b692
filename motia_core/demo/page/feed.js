/** The raw changes, newest first. */

const KEPT = 80;
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

export class Feed {
  #list;
  #template;

  constructor(list, template, noise) {
    this.#list = list;
    this.#template = template;
    noise.addEventListener("change", () => list.classList.toggle("noisy", noise.checked));
  }

  /** Show a change, as the client gave it. */
  add(change) {
    const row = this.#template.content.cloneNode(true).firstElementChild;
    const name = change.eventType ?? change.type;
    row.dataset.kind = change.type;
    row.classList.toggle("noise", this.#isNoise(change));
    row.querySelector(".kind").textContent = name;
    row.querySelector(".what").textContent = `${change.streamName} / ${change.groupId}${change.id === null ? "" : ` / ${change.id}`}`;
    const time = row.querySelector("time");
    const when = new Date(change.timestamp ?? Date.now());
    time.textContent = clock.format(when);
    time.dateTime = when.toISOString();
    const place = row.querySelector(".place");
    place.textContent = shortened(change.position ?? "");
    place.title = `position ${change.position}`;
    row.querySelector("details").addEventListener("toggle", (event) => {
      const { streamName, groupId, ...rest } = change;
      row.querySelector("pre").textContent = event.target.open ? JSON.stringify(rest, null, 2) : "";
    });
    this.#list.prepend(row);
    while (this.#list.children.length > KEPT) this.#list.lastElementChild.remove();
  }

  /** Heartbeats, carets and the chart's points come all the time, and would bury the rest. */
  #isNoise(change) {
    const often = ["presence", "metrics"].includes(change.streamName) && change.type === "update";
    return change.eventType === "caret" || often;
  }
}

/** The end of a position is what changes. */
function shortened(position) {
  return position.length > 26 ? `…${position.slice(-25)}` : position;
}

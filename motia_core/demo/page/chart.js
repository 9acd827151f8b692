/** A chart that moves: what the cron step counted, two lines over the last two minutes. */

const WIDTH = 320;
const HEIGHT = 84;
const TOP = 6;
const SHOWN = 60;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Chart {
  #lines;
  #moving;
  #figures;
  #last = 0;

  /** `svg` holds a `.moving` group with paths `.edits` and `.tabs`; `figures` the elements that say the last point. */
  constructor(svg, figures) {
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.#moving = svg.querySelector(".moving");
    this.#lines = { edits: svg.querySelector(".edits"), people: svg.querySelector(".tabs") };
    this.#figures = figures;
  }

  /** Draw an item of the metrics stream. */
  show({ every, points }) {
    if (points.length === 0) return;
    const step = WIDTH / (SHOWN - 2);
    const end = points.at(-1).at;
    const x = ({ at }) => WIDTH + step - ((end - at) / 1000 / every) * step;
    const most = Math.max(4, ...points.map(({ edits, people }) => Math.max(edits, people)));
    const y = (value) => HEIGHT - 2 - (value / most) * (HEIGHT - TOP - 2);
    for (const [name, line] of Object.entries(this.#lines)) {
      const places = points.map((point) => `${x(point).toFixed(1)},${y(point[name]).toFixed(1)}`);
      const area = `L${x(points.at(-1)).toFixed(1)},${HEIGHT}L${x(points[0]).toFixed(1)},${HEIGHT}Z`;
      line.setAttribute("d", `M${places.join("L")}${name === "edits" ? area : ""}`);
    }
    const { edits, people } = points.at(-1);
    this.#figures.edits.textContent = edits;
    this.#figures.people.textContent = people;
    if (end !== this.#last && !calm.matches) {
      const from = this.#last ? 0 : -step;
      this.#moving.animate([{ transform: `translateX(${from}px)` }, { transform: `translateX(${-step}px)` }], {
        duration: every * 1000,
        fill: "forwards",
      });
    }
    this.#last = end;
  }
}

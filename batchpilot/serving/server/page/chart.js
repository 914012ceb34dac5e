// One chart: up to two lines over time, a reference line, and a legend with the values at the cursor.
import { duration, known } from "./format.js";
import { html, svg, write } from "./elements.js";

const HEIGHT = 132, LEFT = 54, RIGHT = 8, TOP = 8, BOTTOM = 18;
const TIME_STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
const FAR_ABOVE = 4; // A reference so many times above the lines would flatten them: it is told instead of drawn.

export class Chart {
  // spec: title, unit, show (value to text), lines [[field, name]], reference [field, name, class] or none.
  constructor(spec, onCursor) {
    this.spec = spec;
    this.windows = [];
    this.svg = svg("svg", { role: "img" });
    this.values = spec.lines.map(() => html("b"));
    this.referenceValue = html("b");
    this.time = html("span");
    const entries = spec.lines.map(([, name], k) => entry(`line ${k ? "second" : "first"}`, name, this.values[k]));
    if (spec.reference) entries.push(entry(`reference ${spec.reference[2] ?? ""}`, spec.reference[1], this.referenceValue));
    this.figure = html("figure", { tabindex: "0", "aria-label": spec.title }, html("h2", {}, spec.title),
      this.svg, html("figcaption", { class: "legend" }, ...entries, this.time));
    this.svg.addEventListener("pointermove", (event) => onCursor(this.nearest(event.offsetX)));
    this.svg.addEventListener("pointerleave", () => onCursor(null));
    this.figure.addEventListener("blur", () => onCursor(null));
    this.figure.addEventListener("keydown", (event) => this.step(event, onCursor));
  }

  nearest(px) {
    const distances = this.windows.map((w) => Math.abs(this.x(w.end_ms) - px));
    return distances.length ? this.windows[distances.indexOf(Math.min(...distances))].end_ms : null;
  }

  step(event, onCursor) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") onCursor(null);
    if (!by || !this.windows.length) return;
    event.preventDefault();
    const at = this.windows.findIndex((w) => w.end_ms === this.cursor);
    const next = (at < 0 ? this.windows.length : at) + by;
    onCursor(next < this.windows.length ? this.windows[Math.max(next, 0)].end_ms : null);
  }

  draw(windows, nowMs, cursor) {
    const { lines, reference } = this.spec;
    this.windows = windows;
    this.cursor = cursor;
    const width = Math.max(this.svg.clientWidth, 160);
    const startMs = Math.min(windows.length ? windows[0].end_ms : nowMs, nowMs - 30000);
    this.x = (ms) => LEFT + (width - LEFT - RIGHT) * (ms - startMs) / (nowMs - startMs);
    const highest = largest(windows, lines.map(([field]) => field));
    const promised = reference ? lastKnown(windows, reference[0]) : null;
    const drawn = known(promised) && (!highest || promised <= FAR_ABOVE * highest);
    const ticks = niceTicks(Math.max(highest, drawn ? promised : 0) * 1.05);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / ticks.at(-1));
    const show = (value) => this.spec.show(value);
    this.svg.setAttribute("height", HEIGHT);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.replaceChildren(
      ...ticks.flatMap((value) => [
        svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
        svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, tickLabel(value, ticks.at(-1), this.spec.unit)),
      ]),
      ...timeTicks(nowMs - startMs, width).map((s) => svg("text",
        { x: this.x(nowMs - 1000 * s), y: HEIGHT - 3, "text-anchor": s ? "middle" : "end" }, s ? `−${s % 60 ? `${s} s` : `${s / 60} min`}` : "now")),
      ...(drawn ? [svg("path", { class: `reference ${reference[2] ?? ""}`, d: steps(held(windows, reference[0]), this.x, y) })] : []),
      ...lines.map(([field], k) => svg("path",
        { class: `line ${k ? "second" : "first"}`, d: path(windows.map((w) => [w.end_ms, w[field]]), this.x, y) })),
      ...(windows.some((w) => lines.some(([field]) => known(w[field]))) ? [] : [svg("text",
        { x: (LEFT + width - RIGHT) / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "nothing measured yet")]),
      ...(known(cursor) ? [svg("line", { class: "cursor", x1: this.x(cursor), x2: this.x(cursor), y1: TOP, y2: HEIGHT - BOTTOM })] : []),
    );
    const at = (known(cursor) ? windows.find((w) => w.end_ms === cursor) : windows.at(-1)) ?? {};
    lines.forEach(([field], k) => write(this.values[k], show(at[field])));
    if (reference) write(this.referenceValue, show(at[reference[0]] ?? promised) + (drawn || !known(promised) ? "" : " ↑"));
    write(this.time, known(cursor) ? `${duration((nowMs - cursor) / 1000)} ago` : "");
    const told = lines.map(([field, name]) => `${name} ${show(at[field])}`).concat(reference ? `${reference[1]} ${show(promised)}` : []);
    this.svg.setAttribute("aria-label", `${this.spec.title}: ${told.join(", ")}`);
  }
}

const entry = (look, name, value) => html("span", {},
  svg("svg", { class: "key", "aria-hidden": "true" }, svg("path", { class: look, d: "M1 4H17" })), `${name} `, value);

const largest = (windows, fields) => Math.max(0, ...windows.flatMap((w) => fields.map((field) => w[field] ?? 0)));

const lastKnown = (windows, field) => windows.findLast((w) => known(w[field]))?.[field] ?? null;

function held(windows, field) {
  let last = null;
  return windows.map((w) => [w.end_ms, last = w[field] ?? last]);
}

// A value whose neighbours are unknown is a dot: a line of no length with round ends.
function path(points, x, y) {
  let drawn = "", pen = "M";
  for (const [ms, value] of points) {
    if (known(value)) drawn += `${pen}${x(ms).toFixed(1)} ${y(value).toFixed(1)}${pen === "M" ? "h0" : ""}`;
    pen = known(value) ? "L" : "M";
  }
  return drawn || "M0 0";
}

// What is promised or set holds during a window, up to its end.
function steps(points, x, y) {
  const drawn = points.filter(([, value]) => known(value)).map(([ms, value]) => [x(ms).toFixed(1), y(value).toFixed(1)]);
  return drawn.length ? `M${drawn[0]}${drawn.map(([px, py]) => `V${py}H${px}`).join("")}` : "M0 0";
}

function niceTicks(most) {
  if (!(most > 0)) return [0, 1];
  const rough = most / 3, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  return Array.from({ length: Math.ceil(most / step) + 1 }, (_, k) => k * step);
}

function timeTicks(spanMs, width) {
  const step = TIME_STEPS_S.find((s) => spanMs / 1000 / s <= width / 90) ?? 7200;
  return Array.from({ length: Math.floor(spanMs / 1000 / step) + 1 }, (_, k) => k * step).filter((s) => 1000 * s < 0.95 * spanMs);
}

// The unit stands at the highest value only.
function tickLabel(value, highest, unit) {
  if (unit === "%") return `${+(100 * value).toFixed(1)} %`;
  const seconds = unit === "ms" && highest >= 10000, thousands = !unit && highest >= 10000;
  const label = +(seconds || thousands ? value / 1000 : value).toPrecision(3) + (thousands && value ? "k" : "");
  return value === highest && unit ? `${label} ${seconds ? "s" : unit}` : label;
}

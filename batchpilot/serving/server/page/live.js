// Asks the server for its numbers every second and shows them; goes on asking when it does not answer.
import { Chart } from "./chart.js";
import { byId, facts, html, replace, write } from "./elements.js";
import { changes, duration, known, limitName, limits, limitValue, milliseconds, number, percent, rate, tidy } from "./format.js";
import { notices, outcomes, verdict } from "./verdict.js";

const POLL_MS = 1000, HIDDEN_POLL_MS = 10000, PATIENCE_MS = 5000, KEPT_WINDOWS = 300;

const CHARTS = [
  { title: "Time to first token", unit: "ms", show: milliseconds, lines: [["ttft_ms_p95", "p95"], ["ttft_ms_p50", "p50"]], reference: ["ttft_target_ms", "promised"] },
  { title: "Time per output token", unit: "ms", show: milliseconds, lines: [["tpot_ms_p95", "p95"], ["tpot_ms_p50", "p50"]], reference: ["tpot_target_ms", "promised"] },
  { title: "Requests in the engine", unit: "", show: number, lines: [["running", "running"], ["queue", "waiting"]], reference: ["batch_size", "batch size", "cap"] },
  { title: "Requests per second", unit: "", show: rate, lines: [["served_per_s", "served"], ["refused_per_s", "refused"]] },
  { title: "Tokens per second", unit: "", show: rate, lines: [["throughput_tokens_per_s", "generated"], ["goodput_tokens_per_s", "finished within SLO"]] },
  { title: "Device", unit: "%", show: percent, lines: [["utilisation", "busy"], ["kv_used_fraction", "KV cache"]] },
];

let live = null, windows = [], cursor = null, heardAt = performance.now(), failure = null;
const charts = CHARTS.map((spec) => new Chart(spec, (at) => { cursor = at; drawCharts(); }));
byId("charts").append(...charts.map((chart) => chart.figure));

function drawCharts() {
  if (!live) return;
  const at = windows.some((w) => w.end_ms === cursor) ? cursor : null;
  for (const chart of charts) chart.draw(windows, live.now_ms, at);
}

function withRates(window) {
  const perSecond = window.duration_ms > 0 ? 1000 / window.duration_ms : 0;
  const refused = window.refused_on_arrival + window.refused_by_guard;
  return { ...window, served_per_s: window.completions * perSecond, refused_per_s: refused * perSecond };
}

function hear(answer) {
  const restarted = live !== null && answer.started !== live.started;
  windows = (restarted ? [] : windows).concat(answer.windows.map(withRates)).slice(-KEPT_WINDOWS);
  live = answer;
}

function showVerdict(minute) {
  const silentS = (performance.now() - heardAt) / 1000;
  const { tone, title, detail } = failure === null ? verdict(live, minute, outcomes(windows, live.now_ms - 10000))
    : { tone: "bad", title: "No answer", detail: `The server has not answered for ${duration(silentS)} (${failure}).${live ? " What is below is old." : ""} Asking again.` };
  byId("verdict").className = tone;
  write(byId("state"), title);
  write(byId("detail"), detail);
  document.querySelector("main").classList.toggle("stale", failure !== null);
  document.title = `${title}${live ? ` · ${live.model}` : ""} · batchpilot`;
  replace(byId("notices"), live ? notices(live.status, minute).map((text) => html("li", { class: "bad" }, text)) : []);
}

function showOutcomes(minute) {
  const parts = [["met", "within SLO", minute.met], ["late", "late", minute.late], ["refused", "refused", minute.refused], ["failed", "failed", minute.failed]]
    .filter(([, , count]) => count > 0);
  const bar = html("div", { class: "bar", "aria-hidden": "true" }, ...parts.map(([look, , count]) => {
    const part = html("i", { class: look });
    part.style.flexGrow = count;
    return part;
  }));
  const guard = minute.refusedByGuard ? ` (${number(minute.refusedByGuard)} by the TTFT guard)` : "";
  const legend = html("div", { class: "legend" }, ...parts.map(([look, name, count]) => html("span", {},
    html("span", { class: `swatch ${look}`, "aria-hidden": "true" }), html("b", {}, number(count)),
    ` ${name}, ${percent(count / minute.ended)}${look === "refused" ? guard : ""}`)));
  replace(byId("outcomes"), minute.ended ? [bar, legend] : []);
}

function showFigures(minute) {
  const { engine, status } = live;
  const latest = windows.at(-1) ?? {};
  const recent = (field) => windows.findLast((w) => w.end_ms > live.now_ms - 60000 && known(w[field]))?.[field];
  const promise = (field, target) => {
    const value = recent(field), promised = latest[target] ?? live.slo[target];
    if (!known(promised)) return [milliseconds(value), "nothing promised"];
    const missed = known(value) && value > promised;
    return [milliseconds(value), `${missed ? "above the promised" : "promised"} ${milliseconds(promised)} · latest window`,
      known(value) ? (missed ? "bad" : "good") : ""];
  };
  const figures = [
    ["TTFT p95", ...promise("ttft_ms_p95", "ttft_target_ms")],
    ["TPOT p95", ...promise("tpot_ms_p95", "tpot_target_ms")],
    ["Refused", number(minute.refused), "in the last minute", minute.refused ? "warn" : ""],
    ["Running", number(engine.running), `of ${number(status.limits.batch_size)} · KV cache ${percent(engine.kv_used_fraction)}`],
    ["Waiting", number(engine.waiting), `${number(engine.queued_tokens)} prompt tokens${engine.waiting && latest.oldest_wait_ms ? `, oldest ${milliseconds(latest.oldest_wait_ms)}` : ""}`],
    ["Goodput", rate(latest.goodput_tokens_per_s), "tokens/s within SLO · latest window"],
  ];
  replace(byId("figures"), figures.map(([name, value, note, tone]) => html("div", {}, html("dt", {}, name),
    html("dd", { class: `value ${tone ?? ""}` }, value), html("dd", { class: "note" }, note))));
}

function showLimits() {
  const inForce = (name) => {
    const decision = live.decisions.findLast(({ before, after }) => before[name] !== after[name]);
    return decision ? `for ${duration(decision.age_s)}` : "";
  };
  const row = (name, value, note, mark) => html("tr", {}, html("th", { scope: "row" }, name), html("td", { class: "note" }, note),
    html("td", { class: mark }, value));
  const all = Object.entries(live.status.limits), off = all.filter(([, value]) => !known(value)).map(([name]) => limitName(name));
  replace(byId("limits"), [html("tbody", {},
    ...all.filter(([, value]) => known(value)).map(([name, value]) => row(limitName(name), limitValue(name, value), inForce(name), ""))),
  ...(off.length ? [html("caption", { class: "note" }, `Off: ${off.join(", ")}`)] : [])]);
}

function showTuner() {
  const status = live.status;
  write(byId("reason"), tidy(status.reason ?? ""));
  replace(byId("tuner"), facts([
    ["decides", status.trial?.verdict === "running" ? `${status.tuner}, ${status.trial.candidate} on trial` : status.tuner],
    ["phase", status.phase.replaceAll("_", " ").toLowerCase()],
    ["may move", status.track && `the ${status.track} track`],
    ["best known", status.best_batch_size && `batch size ${number(status.best_batch_size)}, score ${number(status.best_score, 3)}`],
    ["rails acting", status.rails_acting],
    ["limits changed", `${number(status.limit_changes)} times in ${number(status.windows)} windows`],
    ["windows it was too slow for", status.windows_untold ? number(status.windows_untold) : null],
    ["last decision took", milliseconds(status.tell_ms)],
  ]));
}

function showTrial() {
  const trial = live.status.trial;
  byId("trial").hidden = !trial;
  if (!trial) return;
  const side = (name, tally) => html("tr", {}, html("th", { scope: "row" }, name), html("td", {}, number(tally.windows)),
    html("td", {}, number(tally.ended)), html("td", {}, percent(tally.slo_attainment)), html("td", {}, number(tally.failures)));
  const running = trial.verdict === "running";
  replace(byId("trial"), [
    html("h2", {}, `Trial: ${trial.verdict}`),
    html("p", {}, running ? `${trial.candidate} decides ${percent(trial.share)} of the windows.` : trial.reason),
    ...(running ? [html("progress", { max: String(trial.promote_after), value: String(trial.new.windows), "aria-label": "Windows judged" }),
      html("p", { class: "note" }, `It stays after ${number(trial.promote_after)} judged windows, unless they are worse.`)] : []),
    html("table", {}, html("thead", {}, html("tr", {}, ...["", "windows", "requests", "within SLO", "failed steps"]
      .map((name, k) => html(k ? "td" : "th", { class: "note" }, name)))),
    html("tbody", {}, side("new", trial.new), side("old", trial.old))),
  ]);
}

function showShadow() {
  const shadow = live.status.shadow;
  byId("shadow").hidden = !shadow;
  if (!shadow) return;
  replace(byId("shadow"), [
    html("h2", {}, `Shadow: ${shadow.tuner} advises, decides nothing`),
    html("p", {}, shadow.advice ? limits(shadow.advice) : "no advice yet"),
    html("dl", { class: "facts" }, ...facts([
      ["agrees", shadow.windows ? `in ${percent(shadow.agreement)} of ${number(shadow.windows)} windows` : null],
      ["its batch sizes", known(shadow.batch_size_ratio) ? `${number(shadow.batch_size_ratio, 3)} × those in force` : null],
      ["errors", shadow.errors ? `${number(shadow.errors)}, last ${shadow.last_error}` : null],
    ])),
  ]);
}

function showDecisions() {
  if (!live.decisions.length) return;
  replace(byId("decisions"), live.decisions.toReversed().map(({ age_s, before, after, reason }) => html("li", {},
    html("div", {}, changes(before, after)), html("div", { class: "note" }, `${duration(age_s)} ago · ${tidy(reason)}`))));
}

function show() {
  const minute = outcomes(windows, (live?.now_ms ?? 0) - 60000);
  showVerdict(minute);
  if (!live || failure !== null) return;
  const status = live.status;
  write(byId("about"), [live.model, status.gpu_model, `windows of ${number(status.window_ms / 1000)} s`, `up ${duration(live.now_ms / 1000)}`].join(" · "));
  showOutcomes(minute);
  showFigures(minute);
  showLimits();
  showTuner();
  showTrial();
  showShadow();
  showDecisions();
  drawCharts();
}

async function ask(after) {
  const answer = await fetch(`api/live${known(after) ? `?after=${after}` : ""}`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const told = await answer.json().catch(() => null);
  if (!Array.isArray(told?.windows)) throw new Error("what it answered are not its numbers");
  return told;
}

async function poll() {
  timer = null;
  try {
    let answer = await ask(windows.at(-1)?.end_ms);
    // Another server than before: its clock began anew, so ask for all that it has.
    if (live && answer.started !== live.started) answer = await ask();
    hear(answer);
    heardAt = performance.now();
    failure = null;
  } catch (error) {
    failure = error.name === "TimeoutError" ? "it took too long" : error.message;
  }
  show();
  timer = setTimeout(poll, document.hidden ? HIDDEN_POLL_MS : POLL_MS);
}

let timer = null;
document.addEventListener("visibilitychange", () => {
  if (document.hidden || timer === null) return;
  clearTimeout(timer);
  poll();
});
new ResizeObserver(drawCharts).observe(byId("charts"));
poll();

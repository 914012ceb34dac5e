// The gateway's live page: who is well, who has how much to do, and what clients get. Asks /gateway/status every second.

import { byId, html, replace, write } from "./elements.js";
import { known, limits, milliseconds, number, percent, rate, tidy } from "./format.js";

const POLL_MS = 1000, HIDDEN_POLL_MS = 10000, PATIENCE_MS = 5000;

let status = null, failure = null, before = null, rates = {};

const upstreamsOf = (told) => told.upstreams ?? { [told.upstream]: told };
const enginesOf = (one) => Object.values(one.engines ?? { only: one });
const total = (one, name) => enginesOf(one).reduce((sum, engine) => sum + (engine[name] ?? 0), 0);
const ended = (one, how) => enginesOf(one).reduce((sum, engine) => sum + (engine.ended[how] ?? 0), 0);
const refusals = (one) => ["refused_on_arrival", "refused_by_guard", "refused_upstream"].reduce((sum, how) => sum + ended(one, how), 0);
const held = (one) => Object.fromEntries(Object.entries(one.limits).filter(([name]) => !(one.limits_not_held ?? []).includes(name) && one.limits[name] !== 0));
const keptShare = (kept, judged) => judged ? kept / judged : null;

function condition(one) {
  if (one.suspected) return ["bad", `out: ${one.suspected_why}`];
  if (one.breaker && one.breaker !== "closed") return ["warn", `breaker ${one.breaker}`];
  return one.upstream_reachable ? ["good", "well"] : ["bad", "not reached"];
}

const UPSTREAM = ["state", "version", "weight", "running", "waiting", "tokens", "served", "refused", "failed", "promise kept", "TTFT p50", "TTFT p95", "TPOT p95"];
const VERSION = ["served", "failed", "promise kept", "TTFT p50", "TTFT p95", "end to end p50", "end to end p95"];

const heads = (first, names) => html("tr", { class: "heads" }, ...[first, ...names].map((name) => html("th", { scope: "col" }, name)));

// On a narrow screen a row is a block, and each cell says its column.
const row = (first, names, values, more = {}) => html("tr", {}, html("th", { scope: "row" }, first),
  ...values.map((value, column) => html("td", { "data-column": names[column], ...more[column] }, value)));

function rows(name, one) {
  const [mark, said] = condition(one);
  const finished = ended(one, "finished"), failed = ended(one, "failed"), refused = refusals(one);
  const values = [said,
    ...[one.version, one.weight, total(one, "running"), total(one, "waiting")].map((value) => number(value)),
    known(rates[name]) ? `${rate(rates[name])}/s` : "–",
    ...[finished, refused, failed].map((value) => number(value)),
    percent(keptShare(total(one, "kept_promises"), finished + refused + failed)),
    ...[one.ttft_ms_p50, one.ttft_ms_p95, one.tpot_ms_p95].map((value) => milliseconds(value))];
  return [row(name, UPSTREAM, values, { 0: { class: mark } }),
    html("tr", {}, html("td", { class: "limits", colspan: values.length + 1 }, limits(held(one)),
      one.reason ? html("p", { class: "note" }, `Why: ${tidy(one.reason)}.`) : ""))];
}

function showUpstreams(all) {
  replace(byId("upstreams"), [
    heads("", UPSTREAM), ...Object.entries(all).flatMap(([name, one]) => rows(name, one))]);
}

function showVersions() {
  const variants = Object.entries(status.variants ?? {});
  byId("versions").hidden = variants.length < 2 && !status.canary;
  const canary = status.canary;
  write(byId("canary"), canary ? `Roll-out of version ${canary.version} from ${canary.from}: ${canary.verdict}, ${percent(canary.share)} of the users; ${canary.reason}.` : "");
  replace(byId("variants"), [
    heads("version", VERSION),
    ...variants.map(([version, one]) => {
      const finished = one.ended.finished ?? 0, failed = one.ended.failed ?? 0;
      return row(version, VERSION, [number(finished), number(failed), percent(keptShare(one.kept_promises, finished + failed)),
        ...["ttft_ms_p50", "ttft_ms_p95", "e2e_ms_p50", "e2e_ms_p95"].map((name) => milliseconds(one[name]))]);
    })]);
}

function showVerdict(all) {
  const marks = all ? Object.entries(all).map(([name, one]) => [name, ...condition(one)]) : [];
  const well = marks.filter(([, mark]) => mark === "good").length;
  const [mark, said] = failure !== null ? ["bad", "No answer from the gateway"]
    : well === marks.length ? ["good", "Every upstream is well"]
    : well ? ["warn", `${well} of ${marks.length} upstreams are well`] : ["bad", "No upstream is well"];
  byId("verdict").className = mark;
  document.querySelector("main").classList.toggle("stale", failure !== null);
  write(byId("state"), said);
  write(byId("detail"), failure ?? "");
  const notices = marks.filter(([, one]) => one !== "good").map(([name, , what]) => `${name}: ${what}`);
  if (status?.record_fault) notices.push(`recording ended: ${status.record_fault}`);
  replace(byId("notices"), notices.map((text) => html("li", {}, text)));
}

function showFigures(all) {
  const each = Object.values(all), sum = (name) => each.reduce((left, one) => left + total(one, name), 0);
  const figures = [
    ["Running", number(sum("running"))], ["Waiting", number(sum("waiting"))],
    ["Output tokens", Object.keys(rates).length ? `${rate(Object.values(rates).reduce((left, one) => left + one, 0))}/s` : "–"],
    ["Tried elsewhere", number(status.retries)], ["Smaller model", number(status.degraded)],
    ["Beyond their rate", number(status.rate_limited)], ["Replicas wanted", number(status.desired_replicas)]];
  replace(byId("figures"), figures.filter(([, value]) => value !== "–").map(([name, value]) =>
    html("div", {}, html("dt", {}, name), html("dd", { class: "value" }, value))));
  write(byId("about"), [status.router ? `${each.length} upstreams, ${status.router}` : status.upstream, each[0].tuner].filter(Boolean).join(" · "));
}

function show() {
  const all = status && upstreamsOf(status);
  showVerdict(all);
  if (!all || failure !== null) return;
  showFigures(all);
  showUpstreams(all);
  showVersions();
}

function hear(told) {
  const now = performance.now(), tokens = {};
  for (const [name, one] of Object.entries(upstreamsOf(told))) tokens[name] = total(one, "output_tokens");
  if (before) {
    rates = {};
    for (const name of Object.keys(tokens)) rates[name] = Math.max(tokens[name] - (before.tokens[name] ?? 0), 0) / (now - before.now) * 1000;
  }
  before = { now, tokens };
  status = told;
}

async function poll() {
  timer = null;
  try {
    const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    hear(await answer.json());
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
poll();

// What an operator must know first: is the promise kept, and if not, what keeps it from being kept.
import { duration, known, number, percent } from "./format.js";

const GOAL = 0.95; // The promise is one about the 95th percentile, as in the charts.
const NOTABLE = 0.01;
const QUIET_STEP_S = 5;

// What became of the requests that ended after a time.
export function outcomes(windows, afterMs) {
  const sum = { ended: 0, met: 0, refused: 0, refusedByGuard: 0, failed: 0, late: 0, arrivals: 0, failedSteps: 0 };
  for (const w of windows) {
    if (w.end_ms <= afterMs) continue;
    const refused = w.refused_on_arrival + w.refused_by_guard;
    const ended = w.completions + refused + w.failed_requests;
    sum.ended += ended;
    sum.met += known(w.slo_attainment) ? Math.round(w.slo_attainment * ended) : 0;
    sum.refused += refused;
    sum.refusedByGuard += w.refused_by_guard;
    sum.failed += w.failed_requests;
    sum.arrivals += w.arrivals;
    sum.failedSteps += w.failures;
  }
  sum.late = Math.max(sum.ended - sum.met - sum.refused - sum.failed, 0);
  return sum;
}

const lateShare = (sum) => sum.late / Math.max(sum.met + sum.late, 1);

// minute and lately: outcomes of the last minute, and of the last ten seconds.
export function verdict(live, minute, lately) {
  const { engine, trouble, draining } = live;
  const open = engine.running + engine.waiting;
  const said = (tone, title, detail) => ({ tone, title, detail });
  if (draining) {
    return said("warn", "Shutting down", `New requests are refused; ${number(open)} still run or wait.`);
  }
  if (trouble) return said("bad", "Not serving", `${trouble}.`);
  if (engine.stalled_s > QUIET_STEP_S) {
    return said("warn", `No step for ${duration(engine.stalled_s)}`, `${number(open)} requests are held up by it.`);
  }
  if (!minute.ended) {
    return open ? said("", "Working", `No request has ended in the last minute; ${number(open)} run or wait.`)
      : said("", "Idle", "No request has ended in the last minute, none is open.");
  }
  const of = `of ${number(minute.ended)} requests in the last minute`;
  if (minute.failed > NOTABLE * minute.ended) return said("bad", "Requests fail", `${percent(minute.failed / minute.ended)} ${of}.`);
  const late = lateShare(minute) > 1 - GOAL;
  const recovered = late && lately.ended > 0 && lateShare(lately) <= 1 - GOAL;
  const refused = minute.refused > NOTABLE * minute.ended ? `${percent(minute.refused / minute.ended)} refused` : "";
  const slow = late ? `${percent(lateShare(minute))} of those served were late` + (recovered ? `, ${percent(lateShare(lately))} in the last 10 s` : "") : "";
  const why = [refused, slow, `${percent(minute.met / minute.ended)} ${of} met their SLO.`].filter(Boolean).join("; ");
  const tone = late && !recovered ? "bad" : late || refused ? "warn" : "good";
  return said(tone, refused ? "Overloaded" : recovered ? "Within SLO again" : late ? "Too slow" : "Within SLO", why);
}

export function notices(status, minute) {
  const said = [];
  if (status.tuner_errors) {
    said.push(`The tuner raised ${number(status.tuner_errors)} times, last ${status.tuner_last_error}; the last good limits stay.`);
  }
  if (status.enabled === false) said.push("The tuner is switched off; the limits stay.");
  if (minute.failedSteps) said.push(`${number(minute.failedSteps)} steps of the engine failed in the last minute.`);
  return said;
}

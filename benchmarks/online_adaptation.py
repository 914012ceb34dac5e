"""Does the latency model follow its engine, and leave it alone while nothing happens?

Steps are those of the simulated engine serving chat with Llama-2-7B on one A100-80GB, 5 % noise on each; the base
parameters are off by 10 %. Tables: observations until the error is back under 10 % after a change, for each update
rule; how still parameters stand while nothing happens; false drift alarms on stationary streams; hostile streams; time
per call.

    python benchmarks/online_adaptation.py [--seeds 10] [--streams 100] [--jobs 2] [--only recovery]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.stats import binomtest

from batchpilot import Limits, RequestTable, SaturationParameters, simulate
from batchpilot.configs.catalogue import device, model
from batchpilot.core.provenance import provenance
from batchpilot.latency.model.roofline import roofline
from batchpilot.latency.online import UPDATE_RULES, AdaptiveLatency, DriftDetector, History, Refit, UpdateRule
from batchpilot.latency.online.feasible import HIGHEST, LOWEST
from batchpilot.latency.online.relative_loss import signed_errors
from batchpilot.latency.online.two_samples import ks_distance

Array = NDArray[np.float64]

CHIP = device("A100-80GB")
TRUTH = roofline(CHIP, model("Llama-2-7B")).parameters
CHANGES = {
    "30 % throttle": TRUTH.scaled(1 / 0.7),
    "model switch, 7B to 13B": roofline(CHIP, model("Llama-2-13B")).parameters,
    "end of a throttle": TRUTH.scaled(0.7),
}
NOISE, BASE_ERROR, GOAL = 0.05, 0.10, 0.10
BEFORE, AFTER = 6000, 8000
STATIONARY = 100_000
LOOK = 25
RATE_PER_S = 2.0


class Never(UpdateRule):
    """Proposes what is."""

    name = "never"

    def propose(self, current: Array, base: Array, history: History, since: int) -> Array:
        """The parameters as they are."""
        return current


RULES: dict[str, Callable[[], tuple[UpdateRule, float]]] = {
    "never updating": lambda: (Never(), math.inf),
    "refit on everything (10,000)": lambda: (Refit(10_000, name="everything"), math.inf),
    "sliding window, never forgetting": lambda: (UPDATE_RULES["sliding"](), math.inf),
    "exponential, never forgetting": lambda: (UPDATE_RULES["exponential"](), math.inf),
    "momentum, never forgetting": lambda: (UPDATE_RULES["momentum"](), math.inf),
    "sliding window": lambda: (UPDATE_RULES["sliding"](), 2.0),
    "exponential": lambda: (UPDATE_RULES["exponential"](), 2.0),
    "momentum": lambda: (UPDATE_RULES["momentum"](), 2.0),
}


def served(seed: int, count: int, noise: float = NOISE) -> Array:
    """Steps of a stationary chat, in the order served: columns B, S, C, T."""
    return around_a_change(seed, count, 0, TRUTH, noise)[0]


def around_a_change(
    seed: int, before: int, after: int, then: SaturationParameters, noise: float
) -> tuple[Array, Array]:
    """The last steps before a change of the engine and the first after it, in a chat that goes on unchanged."""
    rng = np.random.default_rng([seed, 1])
    requests = max(400, (before + after) // 3)
    table = RequestTable.from_arrays(
        np.cumsum(rng.exponential(1000 / RATE_PER_S, requests)),
        np.clip(rng.lognormal(6.5, 0.8, requests), 16, 3000).astype(int),
        np.clip(rng.lognormal(5.0, 0.7, requests), 4, 800).astype(int),
    )
    share = (before + 500) / (before + after + 1000)
    change_ms = float(table.arrival_ms[-1]) * share
    result = simulate(
        table,
        TRUTH,
        Limits(128, 2048),
        kv_capacity_tokens=100_000,
        noise=noise,
        drift=[(change_ms, then)],
        record_steps=True,
        horizon_ms=float(table.arrival_ms[-1]),
        seed=seed,
    )
    assert result.step_log is not None
    log = result.step_log[result.step_log[:, 2] >= 1]
    rows = np.ascontiguousarray(log[:, 1:5])
    changed = int(np.searchsorted(log[:, 0], change_ms))
    if changed < before or len(rows) - changed < after:
        raise ValueError(f"{changed} and {len(rows) - changed} steps were served; {before} and {after} are needed")
    return rows[changed - before : changed], rows[changed : changed + after]


def hinge(rows: Array, rng: np.random.Generator) -> Array:
    """The same steps on an engine that the model cannot express: the larger of memory and compute time."""
    B, S, C = rows[:, :3].T
    T = TRUTH.tau_0 + np.maximum(9.0, S / TRUTH.p_max) + 0.03 * B + TRUTH.tau_c * C
    return np.column_stack([rows[:, :3], T * np.exp(NOISE * rng.standard_normal(len(rows)))])


def recovery(rule: str, change: str, order: str, seed: int) -> tuple[float, float]:
    """Observations until the error is under the goal and stays there, and the error at the end.

    The error is that of the adapted parameters against the truth without noise, over all steps after the change.
    """
    truth = CHANGES[change]
    rng = np.random.default_rng([seed, 2])
    before, after = around_a_change(seed, BEFORE, AFTER, truth, NOISE)
    if order == "drawn":
        before, after = rng.permutation(before), rng.permutation(after)
    exact = truth.predict(*after[:, :3].T)
    update_rule, severity = RULES[rule]()
    adaptive = AdaptiveLatency(TRUTH.perturbed(rng, BASE_ERROR), rule=update_rule, forget_severity=severity)
    for row in before.tolist():
        adaptive.record(*row)
        adaptive.update()

    def error() -> float:
        return float(np.mean(np.abs(adaptive.adapted.predict(*after[:, :3].T) / exact - 1)))

    now = error()
    back = 0.0 if now < GOAL else math.inf
    for number, row in enumerate(after.tolist(), 1):
        adaptive.record(*row)
        update = adaptive.update()
        if update is not None and update.outcome == "accepted":
            now = error()
            back = math.inf if now >= GOAL else min(back, number)
    return back, now


def print_recovery(seeds: int, parallel: Parallel) -> None:
    for change in CHANGES:
        for order in ("served", "drawn"):
            print(f"\n{change}, steps as {order}: observations until the error stays under {GOAL:.0%}, {seeds} seeds")
            print(f"{'rule':36s} {'median':>7s} {'worst':>7s} {f'error after {AFTER}':>18s}")
            for rule in RULES:
                runs = parallel(delayed(recovery)(rule, change, order, seed) for seed in range(seeds))
                backs, errors = np.array(runs).T
                shown = [
                    f"{value:7.0f}" if math.isfinite(value) else f"> {AFTER}"
                    for value in (np.median(backs), max(backs))
                ]
                print(f"{rule:36s} {shown[0]:>7s} {shown[1]:>7s} {np.median(errors):18.1%}", flush=True)


def independent_alarms(seed: int) -> tuple[int, int, int]:
    """On one independent stationary stream: alarms with the level spent; tests at the full level, and their alarms."""
    rng = np.random.default_rng([seed, 3])
    steps = served(seed % 10, 20_000, noise=0.0)
    rows = steps[rng.integers(0, len(steps), STATIONARY)]
    rows[:, 3] *= np.exp(NOISE * rng.standard_normal(STATIONARY))
    parameters = TRUTH.as_array()
    detector, alarms = DriftDetector(), 0
    for end in range(LOOK, STATIONARY + 1, LOOK):
        start = max(0, end - 10_000)
        alarms += detector.check(History(rows[start:end], start), parameters) is not None
    errors = signed_errors(parameters, rows)
    reference = np.sort(errors[:1000])
    naive = [ks_distance(reference, np.sort(errors[end - 1000 : end])) for end in range(2000, STATIONARY + 1, LOOK)]
    asymptotic = 1.358 * math.sqrt(2 / 1000)
    return alarms, len(naive), int(np.sum(np.array(naive) > asymptotic))


def adaptive_alarms(engine: str, seed: int) -> tuple[int, int, float, float]:
    """Of a whole model on one served stationary stream: drift alarms, times it forgot, its error, that of the base."""
    rng = np.random.default_rng([seed, 4])
    rows = served(seed, STATIONARY)
    rows = hinge(rows, rng) if engine == "hinge" else rows
    adaptive = AdaptiveLatency(TRUTH.perturbed(rng, BASE_ERROR))
    starts = set()
    for row in rows.tolist():
        adaptive.record(*row)
        update = adaptive.update()
        if update is not None and update.reason == "drift":
            starts.add(adaptive.status()["regime_start"])
    status = adaptive.status()
    return status["drifts"], len(starts - {0}), status["mean_error"], status["base_mean_error"]


def print_false_alarms(streams: int, parallel: Parallel) -> None:
    alarms, tests, naive = np.array(parallel(delayed(independent_alarms)(seed) for seed in range(streams))).T
    with_any = int(np.sum(alarms > 0))
    upper = binomtest(with_any, streams, alternative="less").proportion_ci().high
    print(f"\nFalse drift alarms, {streams} streams of {STATIONARY:,} independent stationary observations, level 0.05")
    print(
        f"level spent over the stream: {with_any} streams with an alarm ({alarms.sum()} alarms), "
        f"share of streams at most {upper:.3f} (95 % confidence)"
    )
    print(
        f"0.05 for every test instead: {np.sum(naive > 0)} streams with an alarm; "
        f"{naive.sum() / tests.sum():.3f} of {tests.sum():,} tests"
    )
    print(f"\nThe whole model (sliding window) on six served, dependent stationary streams of {STATIONARY:,}")
    print(f"{'engine':42s} {'alarms':>24s} {'forgets':>16s} {'error':>7s} {'base':>7s}")
    for engine, name in (("model", "follows the model's formula"), ("hinge", "max(memory, compute), which it misses")):
        drifts, forgets, error, base = zip(
            *parallel(delayed(adaptive_alarms)(engine, seed) for seed in range(6)), strict=True
        )
        print(f"{name:42s} {drifts!s:>24s} {forgets!s:>16s} {np.mean(error):7.1%} {np.mean(base):7.1%}")


def steadiness(rule: str, seed: int) -> tuple[float, float, float]:
    """After a stationary stream: observations for each update, spread of parameters, of predictions."""
    update_rule, forget_severity = RULES[rule]()
    adaptive = AdaptiveLatency(TRUTH.scaled(1 + BASE_ERROR), rule=update_rule, forget_severity=forget_severity)
    for row in served(seed, BEFORE):
        adaptive.record(*row)
        adaptive.update()
    told = adaptive.status()
    return told["observations_per_update"], told["parameter_spread"], told["prediction_spread"]


def print_steadiness(seeds: int, parallel: Parallel) -> None:
    print(f"\nHow still it stands: {BEFORE:,} stationary observations, latest 20 accepted updates, {seeds} seeds")
    print(f"{'rule':34s}{'observations an update':>24s}{'parameters':>12s}{'predictions':>13s}")
    for rule in ("sliding window", "exponential", "momentum"):
        told = np.median(parallel(delayed(steadiness)(rule, seed) for seed in range(seeds)), axis=0)
        print(f"{rule:34s}{told[0]:24.0f}{told[1]:12.1%}{told[2]:13.2%}")


def hostile_streams(rng: np.random.Generator) -> dict[str, Array]:
    steps = served(0, 5000)
    n = len(steps)
    glitches = steps.copy()
    bad = rng.random(n) < 0.3
    glitches[bad, 3] = rng.choice([math.nan, -1.0, 0.0, math.inf, 0.2, 50_000.0], bad.sum())
    outliers = steps.copy()
    outliers[rng.random(n) < 0.05, 3] *= 30
    constant = np.column_stack([np.full((n, 2), 16.0), np.zeros(n), 20 * np.exp(NOISE * rng.standard_normal(n))])
    extremes = np.column_stack([np.ones((n, 2)), np.zeros(n), np.where(np.arange(n) % 2, 0.11, 59_999.0)])
    junk = np.exp(rng.uniform(-3, 21, (n, 4)))
    return {
        "constant B and S": constant,
        "30 % NaN, negative, zero, infinite, absurd": glitches,
        "5 % outliers x30": outliers,
        "0.11 ms and 59,999 ms in turn": extremes,
        "log-uniform junk": junk,
    }


def print_hostile() -> None:
    clean = served(99, 2000, noise=0.0)
    base = TRUTH.perturbed(np.random.default_rng(5), BASE_ERROR)
    base_error = np.mean(np.abs(base.predict(*clean[:, :3].T) / clean[:, 3] - 1))
    print(f"\nHostile streams of 5,000; error on clean steps afterwards, that of the base being {base_error:.1%}")
    print(
        f"{'stream':44s} {'rule':12s} {'dropped':>8s} {'updates':>8s} {'failed':>7s} {'infeasible':>11s} {'error':>8s}"
    )
    for name, rows in hostile_streams(np.random.default_rng(6)).items():
        for rule in UPDATE_RULES:
            adaptive = AdaptiveLatency(base, rule=rule)
            infeasible = 0
            for row in rows.tolist():
                adaptive.record(*row)
                if adaptive.update() is not None:
                    values = adaptive.adapted.as_array()
                    infeasible += not np.all((values >= LOWEST) & (values <= HIGHEST) & np.isfinite(values))
            status = adaptive.status()
            tried = sum(status[f"updates_{outcome}"] for outcome in ("accepted", "worse", "failed"))
            error = np.mean(np.abs(adaptive.adapted.predict(*clean[:, :3].T) / clean[:, 3] - 1))
            counts = f"{status['dropped']:8d} {tried:8d} {status['updates_failed']:7d} {infeasible:11d}"
            print(f"{name:44s} {rule:12s} {counts} {error:8.1%}", flush=True)


def best_seconds(run: Callable[[], object], number: int) -> float:
    run()
    times = []
    for _ in range(7):
        started = time.perf_counter()
        for _ in range(number):
            run()
        times.append((time.perf_counter() - started) / number)
    return min(times)


def print_timings() -> None:
    rows = np.concatenate(around_a_change(0, 5000, 5000, CHANGES["30 % throttle"], NOISE))
    adaptive = AdaptiveLatency(TRUTH)
    for row in rows.tolist():
        adaptive.record(*row)
    adaptive.update()
    history = History(rows[5000:])
    base = TRUTH.perturbed(np.random.default_rng(0), BASE_ERROR).as_array()
    print(f"\n{'time per call, best of 7':56s} {'measured':>10s} {'goal':>8s}")
    record = best_seconds(lambda: adaptive.record(32, 40, 50_000, 30.5), 100_000)
    drop = best_seconds(lambda: adaptive.record(32, math.nan, 50_000, 30.5), 100_000)
    predict = best_seconds(lambda: adaptive.predict(32, 40, 50_000), 100_000)
    for name, seconds, goal in (
        ("record", record, "2 us"),
        ("record, dropped", drop, "2 us"),
        ("predict", predict, "1 us"),
    ):
        print(f"{name:56s} {1e6 * seconds:7.2f} us {goal:>8s}")
    for rule in ("sliding", "exponential", "momentum"):
        seconds = best_seconds(lambda rule=rule: UPDATE_RULES[rule]().propose(base, base, history, 0), 5)
        print(
            f"{f'{rule}, from a base off by 10 % to 30 % throttled, 5,000':56s} {1e3 * seconds:7.2f} ms {'100 ms':>8s}"
        )
    check = best_seconds(lambda: DriftDetector().check(History(rows), base), 50)
    print(f"{'drift test, both windows':56s} {1e6 * check:7.1f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", choices=("recovery", "steadiness", "alarms", "hostile", "timings"))
    options = parser.parse_args()
    parallel = Parallel(n_jobs=options.jobs)
    tables: dict[str, Callable[[], None]] = {
        "recovery": lambda: print_recovery(options.seeds, parallel),
        "steadiness": lambda: print_steadiness(options.seeds, parallel),
        "alarms": lambda: print_false_alarms(options.streams, parallel),
        "hostile": print_hostile,
        "timings": print_timings,
    }
    for name, table in tables.items():
        if options.only in (None, name):
            table()
    print("\n" + ", ".join(f"{name} {value}" for name, value in provenance(0, vars(options)).items()))


if __name__ == "__main__":
    main()

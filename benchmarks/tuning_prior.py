"""How many trials does a study need with a prior? Cold, warm, warm with a prior, and with a twin that is wrong.

    python benchmarks/tuning_prior.py --scenarios quick-chat,quick-burst --replicates 6
    python benchmarks/tuning_prior.py --online --scenarios quick-chat,quick-burst,quick-shift --replicates 3

Offline, trials of track `limits` until one comes within 2 % of the best single setting of the grid of 298, each a mean
over two seeds of requests, other ones in each replicate. A warm study begins with the best trials of one on other
requests, all of which the sampler knows. The twin's times are the truth's times a factor. Online, the goodput share of
a whole run while the tuner explores, and of the limits that it locks in a run of their own.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace

import numpy as np
import optuna

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.baselines.references import track_grid
from batchpilot.configs.scenario import scenario
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core.provenance import provenance
from batchpilot.engines import SimulatedEngine, run_engine
from batchpilot.envs.scenarios import prepare
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.tuning.bench import SimulatedBench, goodput
from batchpilot.runners.tuning.search import Search, mean_value, run_search
from batchpilot.runners.tuning.twin import twin_prior
from batchpilot.tuners import make_tuner

TRIALS, NEAR, SEEDS = 20, 0.98, 2
ANOTHER_HOUR = 500
TWINS = ("exact", "times 1.4", "times 0.65")


def twin_of(truth: SaturationParameters, kind: str) -> SaturationParameters:
    """The step latency that a twin believes in."""
    return truth if kind == "exact" else truth.scaled(float(kind.split()[1]))


def trials_until_near(search: Search, bench: SimulatedBench, best: float, earlier: list[dict] | None = None) -> float:
    """Trials until one was near enough; infinity if none was."""
    with tempfile.TemporaryDirectory() as folder:
        search = replace(search, storage=f"{folder}/study.journal")
        known = 0
        if earlier is not None:
            exploration = search.explore()
            exploration.extend(earlier)
            known = len(earlier)
            complete = [one for one in earlier if one["state"] == "COMPLETE"]
            for one in sorted(complete, key=lambda one: -one["value"])[:3]:
                exploration.study.enqueue_trial(one["params"])
        search = replace(search, trials=known + TRIALS)
        trials = run_search(search, bench).trials()[known:]
    near = [k + 1 for k, one in enumerate(trials) if one.value is not None and one.value >= NEAR * best]
    return min(near, default=np.inf)


def offline(name: str, replicates: int, samplers: list[str]) -> dict[str, list[float]]:
    """Trials that each way needed, one a replicate."""
    found: dict[str, list[float]] = {}
    bench, other = SimulatedBench(scenario(name)), SimulatedBench(scenario(name))
    for replicate in range(replicates):
        seeds = tuple(range(SEEDS * replicate, SEEDS * (replicate + 1)))
        hour = tuple(seed + ANOTHER_HOUR for seed in seeds)
        best = max(
            mean_value([bench.run(limits, seed) for seed in seeds]) for limits in track_grid("limits", bench.tpot_ms(0))
        )
        plain = Search("limits", samplers[0], TRIALS, seeds, "", name, 1000 + replicate)
        truth = bench.prepared(seeds[0]).engine.latency
        priors = {kind: twin_prior(plain, bench, twin_of(truth, kind)) for kind in TWINS}
        for sampler in samplers:
            search = replace(plain, sampler=sampler)
            with tempfile.TemporaryDirectory() as folder:
                before = replace(search, storage=f"{folder}/study.journal", seeds=hour)
                earlier = run_search(before, other).to_list()
            ways = {"cold": trials_until_near(search, bench, best)}
            ways["warm"] = trials_until_near(search, bench, best, earlier)
            for kind, prior in priors.items():
                ways[f"prior, {kind}"] = trials_until_near(replace(search, prior=prior), bench, best)
            ways["warm, prior times 1.4"] = trials_until_near(
                replace(search, prior=priors["times 1.4"]), bench, best, earlier
            )
            for way, count in ways.items():
                found.setdefault(f"{sampler} {way}", []).append(count)
            print(name, replicate, sampler, ways, flush=True)
    return found


def interval(counts: list[float], rng: np.random.Generator) -> str:
    """The median with a 95 % bootstrap interval; `never` where it is none of the trials."""
    drawn = np.median(rng.choice(np.minimum(counts, TRIALS + 1), (4000, len(counts))), axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return f"{_told(np.median(np.minimum(counts, TRIALS + 1)))} [{_told(low)}, {_told(high)}]"


def _told(count: float) -> str:
    return "never" if count > TRIALS else f"{count:g}"


def online(name: str, replicates: int, samplers: list[str]) -> None:
    """Print what exploring and what was locked came to, with and without a twin."""
    for sampler in samplers:
        for kind in (None, *TWINS):
            shares = []
            for seed in range(replicates):
                run = prepare(scenario(name), seed)
                latency = twin_of(run.engine.latency, kind or "exact")
                tuner = make_tuner(
                    f"optuna-{sampler}",
                    TunerConfig(strategy="hybrid"),
                    base=SERVER_DEFAULT,
                    latency=latency,
                    seed=seed,
                    trials=8,
                    windows_per_trial=8,
                    twin=kind is not None,
                )
                how = {"window_ms": run.window_ms, "horizon_ms": run.horizon_ms}
                explored = run_engine(SimulatedEngine(run.engine, run.requests, record_steps=True), tuner, **how)
                locked = run_engine(SimulatedEngine(run.engine, run.requests), tuner.ask(), **how)
                shares.append((goodput(explored), goodput(locked), explored.tuner_seconds))
            exploring, held, seconds = np.mean(shares, axis=0)
            told = "no twin" if kind is None else f"twin {kind}"
            print(f"| {name} | {sampler} | {told} | {exploring:.2f} | {held:.2f} | {seconds:.1f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenarios", default="quick-chat,quick-burst")
    parser.add_argument("--samplers", default="tpe,gp")
    parser.add_argument("--replicates", type=int, default=5)
    parser.add_argument("--online", action="store_true")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names, samplers = asked.scenarios.split(","), asked.samplers.split(",")
    print(provenance(0, vars(asked)))
    if asked.online:
        print("| scenario | sampler | prior | exploring | locked | s in tell |\n|---|---|---|---|---|---|")
        for name in names:
            online(name, asked.replicates, samplers)
        return
    found = {name: offline(name, asked.replicates, samplers) for name in names}
    rng = np.random.default_rng(0)
    print(f"| trials to within 2 % | {' | '.join(names)} |\n{'|---' * (len(names) + 1)}|")
    for way in found[names[0]]:
        print(f"| {way} | {' | '.join(interval(found[name][way], rng) for name in names)} |")


if __name__ == "__main__":
    main()

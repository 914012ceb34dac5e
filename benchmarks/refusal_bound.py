"""What does it cost to spread refusals? Goodput against the refusals of the worst quarter of prompt lengths.

    python benchmarks/refusal_bound.py --seeds 2 --picture docs/images/refusal-bound.svg

Each scenario asks for more than its engine can give. The guard stands at the promise and the step target just below it;
the bound on refusals and the discipline change. Estimated output lengths are drawn around the true ones (a log-normal
factor of standard deviation 0.5), since nobody knows them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.baselines.guarded import STEP_TARGET_SHARE
from batchpilot.configs.scenario import scenario
from batchpilot.core.limits import DISCIPLINE_WORDS, Limits
from batchpilot.core.provenance import provenance
from batchpilot.engines import SimulatedEngine, run_engine
from batchpilot.envs.scenarios import PreparedRun, prepare
from batchpilot.runners.report.svg import drawing

SCENARIOS = ("overload-1.3-a100", "overload-2-h100", "quick-burst")
DISCIPLINES = ("fcfs", "spf", "value")
BOUNDS = (None, 0.4, 0.2, 0.1, 0.05, 0.0)
DOUBT = 0.5


def figures(run: PreparedRun, limits: Limits) -> tuple[float, float, float]:
    """Goodput share, share refused, and that of the worst quarter."""
    engine = SimulatedEngine(run.engine, run.requests)
    guesses = np.random.default_rng([run.seed, 9]).lognormal(0.0, DOUBT, len(run.requests))
    engine.state.requests["estimated_output"][: len(run.requests)] = run.requests.output_tokens * guesses
    result = run_engine(engine, limits, window_ms=run.window_ms, horizon_ms=run.horizon_ms)
    return result.goodput_fraction, result.refused_fraction, result.refused_worst_quarter


def main() -> None:
    """Print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    names = asked.scenarios.split(",")
    print(provenance(0, {"scenarios": names, "seeds": asked.seeds}))
    print("| scenario | discipline | bound | goodput | refused | worst quarter |\n|---|---|---|---|---|---|")
    fronts: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for name in names:
        runs = [prepare(scenario(name), seed) for seed in range(asked.seeds)]
        for discipline in DISCIPLINES:
            for bound in BOUNDS:
                found = []
                for run in runs:
                    target = STEP_TARGET_SHARE * float(run.requests.tpot_target_ms.min())
                    guarded = SERVER_DEFAULT.replace(step_target_ms=target, ttft_guard=1.0)
                    found.append(figures(run, guarded.replace(discipline=discipline, refusal_bound=bound)))
                goodput, refused, worst = np.mean(found, axis=0)
                fronts.setdefault((name, discipline), []).append((worst, goodput))
                told = "off" if bound is None else f"{bound:g}"
                print(f"| {name} | {discipline} | {told} | {goodput:.3f} | {refused:.3f} | {worst:.3f} |", flush=True)
    if asked.picture is not None:
        draw(fronts, names, asked.picture)


def draw(fronts: dict[tuple[str, str], list[tuple[float, float]]], names: list[str], path: Path) -> None:
    """A panel a scenario, a line a discipline, a point a bound."""
    with drawing():
        figure = Figure(figsize=(3.4 * len(names), 3.4), layout="constrained")
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for panel, name in zip(panels, names, strict=True):
            for discipline, marker in zip(DISCIPLINES, "os^", strict=True):
                worst, goodput = np.array(fronts[name, discipline]).T
                (line,) = panel.plot(worst, goodput, marker=marker, label=DISCIPLINE_WORDS[discipline])
                panel.plot(
                    worst[:1], goodput[:1], marker=marker, markersize=10, fillstyle="none", color=line.get_color()
                )
            panel.set_title(name)
            panel.set_xlabel("refused of the worst quarter")
            panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panels[0].set_ylabel("goodput share")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(DISCIPLINES))
        figure.suptitle("What does it cost to spread refusals? (ring: no bound)")
        figure.savefig(path, facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()

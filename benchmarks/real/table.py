"""The table and the picture of what `run.py` measured, and one line that says it all.

python benchmarks/real/table.py reports/real
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from loads import PROMISE
from matplotlib.figure import Figure
from scipy import stats

from batchpilot.core.files import write_atomic

NAMES = {"vllm": "vLLM", "llama.cpp": "llama.cpp"}
RECOMMENDED, PLANNING = "guarded-adaptive", "model-based"
Runs = dict[tuple[str, str, float], list[dict[str, Any]]]
"""Runs by way, tuner and load."""


def read_runs(path: Path, server: str) -> Runs:
    """Runs of one server."""
    found: Runs = defaultdict(list)
    for line in path.read_text().splitlines():
        run = json.loads(line)
        if run["server"] == server:
            found[run["way"], run["tuner"], run["load"]].append(run)
    return found


def mean_and_half(runs: Iterable[dict[str, Any]], name: str) -> tuple[float, float]:
    """The mean over runs, and half the width of its 95 % interval (Student's t), NaN for one run."""
    values = np.array([run[name] for run in runs], np.float64)
    if len(values) < 2:
        return float(values.mean()), np.nan
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def percent(runs: Iterable[dict[str, Any]], name: str) -> str:
    """A share as a table shows it."""
    mean, half = mean_and_half(runs, name)
    return f"{100 * mean:.1f}" + ("" if np.isnan(half) else f" ± {100 * half:.0f}")


def middle(times_ms: list[float | None]) -> str:
    """The mean of what runs had of a percentile, a dash where none had any."""
    known = [time_ms for time_ms in times_ms if time_ms is not None and np.isfinite(time_ms)]
    return f"{np.mean(known):.0f}" if known else "-"


def table(server: str, runs: Runs) -> str:
    """One line for each arrangement and load."""
    columns = "| | load | runs | goodput % | SLO met % | refused % | failed | TTFT p95 ms | TPOT p95 ms "
    columns += "| told no p95 ms | load average |"
    lines = [columns, "|---" * (columns.count("|") - 1) + "|"]
    for (way, tuner, load), those in sorted(runs.items(), key=lambda item: (item[0][2], item[0][0], item[0][1])):
        names = ("ttft_p95_ms", "tpot_p95_ms", "refusal_ms_p95")
        times = " | ".join(middle([run[name] for run in those]) for name in names)
        busy = [run[name] for run in those for name in ("load_average_before", "load_average")]
        lines.append(
            f"| {way} {tuner} | {load:g} | {len(those)} | {percent(those, 'goodput_fraction')} "
            f"| {percent(those, 'slo_attainment')} | {percent(those, 'refused_fraction')} "
            f"| {sum(run['ended_failed'] for run in those)} | {times} | {min(busy):.1f}-{max(busy):.1f} |"
        )
    versions = sorted({str(run["version"]) for those in runs.values() for run in those})
    models = sorted({run["model"] for those in runs.values() for run in those})
    promise = f"TTFT {PROMISE.ttft_ms:g} ms, TPOT {PROMISE.tpot_ms:g} ms"
    return f"{server} {', '.join(versions)} ({'; '.join(models)}), promised {promise}\n\n" + "\n".join(lines) + "\n"


def picture(server: str, runs: Runs) -> Figure:
    """Goodput over offered load, alone and with the recommended tuner, in grey-safe lines with intervals as bands."""
    drawn = Figure(figsize=(7, 4), layout="constrained")
    axes = drawn.add_subplot()
    looks = {
        "alone": ("#999999", "o", "alone"),
        "gateway": ("#0072b2", "s", "behind the gateway"),
        "adapter": ("#d55e00", "^", "in its scheduler"),
    }
    for way, (colour, marker, label) in looks.items():
        tuner = "" if way == "alone" else RECOMMENDED
        points = sorted((load, those) for (w, t, load), those in runs.items() if (w, t) == (way, tuner))
        if points:
            loads = np.array([load for load, _ in points])
            mean, half = np.array([mean_and_half(those, "goodput_fraction") for _, those in points]).T
            shown = label if way == "alone" else f"{label}, {tuner}"
            axes.plot(loads, 100 * mean, color=colour, marker=marker, label=shown)
            half = np.nan_to_num(half)
            axes.fill_between(
                loads, 100 * (mean - half).clip(0), 100 * (mean + half).clip(None, 1), color=colour, alpha=0.15
            )
    version, model = (next(iter(runs.values()))[0][name] for name in ("version", "model"))
    axes.set(
        title=f"What becomes of promises when more is asked than a real {NAMES[server]} can do?",
        xlabel=f"offered load, multiples of capacity\n{NAMES[server]} {version}, {model}",
        ylabel="goodput, % of offered tokens",
        ylim=(0, 103),
    )
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return drawn


def last_line(server: str, runs: Runs) -> str:
    """The figures that matter most."""

    def share(way: str, tuner: str, load: float) -> str:
        those = runs.get((way, tuner, load))
        return f"{100 * mean_and_half(those, 'goodput_fraction')[0]:.1f} %" if those else "not measured"

    version = next(iter(runs.values()))[0]["version"]
    told = (
        f"real: {server} {version} at 2x alone {share('alone', '', 2.0)} gateway {share('gateway', RECOMMENDED, 2.0)}"
    )
    if any(way == "adapter" for way, _, _ in runs):
        told += f" adapter {share('adapter', RECOMMENDED, 2.0)}"
    return f"{told} {PLANNING} {share('gateway', PLANNING, 2.0)}, at 0.5x gateway {share('gateway', RECOMMENDED, 0.5)}"


def main(folder: Path) -> None:
    """Write the tables and pictures beside the runs, and print them."""
    lines = []
    for server in ("llama.cpp", "vllm"):
        runs = read_runs(folder / "runs.jsonl", server)
        if runs:
            text = table(server, runs)
            write_atomic(folder / f"{server}.md", text)
            picture(server, runs).savefig(folder / f"{server}.svg")
            picture(server, runs).savefig(folder / f"{server}.png", dpi=150)
            print(text)
            lines.append(last_line(server, runs))
    print("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

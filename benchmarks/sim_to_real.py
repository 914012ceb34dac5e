"""Does the calibrated simulation tell what the torch engine does? One `batchpilot validate` a seed, held against goals.

Each seed draws weights, calibration, arrivals and lengths of its own, in a process of its own: the engine is
calibrated and serves the requests several times, and the same requests are simulated. Goals: the step time off by at
most 10 % on average over the real runs' steps, none of which was fitted; p50 and p95 of TTFT and TPOT off by at most
15 %. Behind each error stands by how much the real runs differ among themselves. What is missed is printed as such.

    python benchmarks/sim_to_real.py [--seeds 5] [--first 0] [--out sim.json] [-- further options of `validate`]

Without options `validate` gets `--model small-qwen3 --device cpu --threads 1`. Needs the extra `torch`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batchpilot.core.files import write_atomic

ASKED = ("--model", "small-qwen3", "--device", "cpu", "--threads", "1")
STEP_GOAL = 0.10
RUN_GOAL = 0.15
JUDGED = ("TTFT p50 ms", "TTFT p95 ms", "TPOT p50 ms", "TPOT p95 ms")


def validated(seed: int, options: Sequence[str]) -> dict[str, Any]:
    """What `batchpilot validate` found at a seed, run in a process of its own."""
    command = (sys.executable, "-m", "batchpilot.runners.main", "validate", *options, "--seed", str(seed), "--json")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"seed {seed}: {' '.join(command)} failed\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def row(seed: int | str, step: str, figures: Sequence[str], verdict: str) -> str:
    """A line of the table, in Markdown."""
    return f"| {seed} | {step} | {' | '.join(figures)} | {verdict} |"


def line(seed: int, found: dict[str, Any]) -> str:
    """A seed's errors, with what the real runs differ by in brackets, and the goals that it missed."""
    figures = [found["figures"][name] for name in JUDGED]
    missed = [name for name, figure in zip(JUDGED, figures, strict=True) if abs(figure["error"]) > RUN_GOAL]
    if found["steps"]["mape"] > STEP_GOAL:
        missed.insert(0, "step time")
    told = [f"{100 * f['error']:+.1f} %" + spread(f["spread"]) for f in figures]
    return row(
        seed, f"{100 * found['steps']['mape']:.1f} %", told, f"misses {', '.join(missed)}" if missed else "meets all"
    )


def spread(share: float | None) -> str:
    """What the real runs differ by, in brackets; nothing for a single run."""
    return "" if share is None else f" ({100 * share:.0f})"


def main() -> None:
    """Run the seeds, print the table and how many met which goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--out", type=Path, help="write what validate found, by seed, to this JSON file")
    parser.add_argument("options", nargs="*", default=ASKED, help="of validate, after --")
    asked = parser.parse_args()
    print(row("seed", "step time", JUDGED, "goals"))
    print("|---" * (len(JUDGED) + 3) + "|")
    found: dict[int, dict[str, Any]] = {}
    for seed in range(asked.first, asked.first + asked.seeds):
        found[seed] = validated(seed, asked.options)
        print(line(seed, found[seed]), flush=True)
    held = sum(one["steps"]["mape"] <= STEP_GOAL for one in found.values())
    print(f"\nstep time within {STEP_GOAL:.0%}: {held} of {len(found)} seeds")
    for name in JUDGED:
        held = sum(abs(one["figures"][name]["error"]) <= RUN_GOAL for one in found.values())
        print(f"{name} within {RUN_GOAL:.0%}: {held} of {len(found)} seeds")
    if asked.out is not None:
        write_atomic(asked.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

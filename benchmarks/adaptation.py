"""How fast does each tuner learn, and how fast is it back after a shift? Any tuners that the leaderboard knows.

Decisions until within 5 % of the best fixed setting on stationary load, and decisions after a shift until within 10 %
of the new best; medians over seeds, and in how many of them the tuner arrived at all.

    python benchmarks/adaptation.py --tuners hybrid,dynamic,optuna-tpe,my_tuner.py:MyTuner --seeds 3 --jobs 2
"""

from __future__ import annotations

import argparse
import math
from itertools import product

import numpy as np
from joblib import Parallel, delayed

from batchpilot.configs.scenario import scenario
from batchpilot.runners.leaderboard.adaptation import Adaptation, reaction, sample_efficiency

LEARNING = ("quick-code", "quick-steady", "train-overload-1.4-a100", "quick-night")
SHIFTS = ("quick-shift", "train-throttle-a100-40gb", "train-switch-a100", "val-mix-shift-h200")


def measured(kind: str, name: str, tuner: str, seed: int, track: str) -> Adaptation:
    judge = sample_efficiency if kind == "learning" else reaction
    return judge(scenario(name), seed, tuner, track)


def shown(found: list[Adaptation]) -> str:
    decisions = [one.decisions for one in found if not math.isnan(one.decisions)]
    median = f"{np.median(decisions):5.0f}" if decisions else "never"
    final = np.mean([one.final / one.best for one in found])
    return f"{median} ({len(decisions)}/{len(found)}, ends at {final:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuners", default="static-default,aimd,dynamic,hybrid")
    parser.add_argument("--track", default="limits")
    parser.add_argument("--learning", default=",".join(LEARNING), help="stationary scenarios")
    parser.add_argument("--shifts", default=",".join(SHIFTS), help="scenarios that shift")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    tuners = options.tuners.split(",")
    places = [("learning", name) for name in options.learning.split(",") if name]
    places += [("reaction", name) for name in options.shifts.split(",") if name]
    cells = list(product(places, tuners, range(options.seeds)))
    found = Parallel(n_jobs=options.jobs)(
        delayed(measured)(kind, name, tuner, seed, options.track) for (kind, name), tuner, seed in cells
    )
    by_cell = dict(zip(cells, found, strict=True))
    print(f"track {options.track}; decisions: median (seeds that arrived, last setting's share of the best)")
    for kind, name in places:
        best = np.mean([by_cell[(kind, name), tuners[0], seed].best for seed in range(options.seeds)])
        print(f"\n{kind}: {name}, best fixed setting {best:.3f}")
        for tuner in tuners:
            print(f"  {tuner:28s} {shown([by_cell[(kind, name), tuner, seed] for seed in range(options.seeds)])}")


if __name__ == "__main__":
    main()

"""Which scenarios rank somebody? `python benchmarks/ranking.py [--suites held-out,images-held-out] [--seeds 2]`.

Three strategies of different kinds play every scenario of the suites: what servers ship, a rule with a guard, a
planner. A scenario ranks somebody where the best and the worst of them lie further apart than 0.01 of the offered
tokens and than two standard errors of their distance (over seeds, on the same requests). None of the three is a policy
of ours, so that no scenario is chosen by how these fare.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from batchpilot.configs.scenario import suites
from batchpilot.configs.seeds import seeds_of
from batchpilot.runners.chosen import scenarios_of
from batchpilot.runners.leaderboard.evaluation import Task
from batchpilot.runners.leaderboard.jobs import run_tasks
from batchpilot.runners.report.ranking import spreads

TUNERS = "static-default,guarded-adaptive,model-based"


def main() -> None:
    """Print a row a scenario."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", default=",".join(name for name in suites() if not name.endswith("-torch")))
    parser.add_argument("--tuners", default=TUNERS)
    parser.add_argument("--track", default="limits")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--traces", type=Path, help="folder of the published traces; without it their scenarios wait")
    parser.add_argument("--out", type=Path, default=Path("reports/ranking"), help="where finished runs are kept")
    options = parser.parse_args()
    tuners = tuple(options.tuners.split(","))
    print("| suite | scenario | best | worst | best's share | apart | standard error | |\n" + "|---" * 8 + "|")
    left_out = []
    for name in options.suites.split(","):
        for scenario in scenarios_of(name, None, options.traces):
            if scenario.needs_trace:
                left_out.append(scenario.name)
                continue
            tasks = [Task(scenario, seed, options.track, tuners) for seed in seeds_of(name, 0, options.seeds)]
            rows = [row for cell in run_tasks(tasks, options.out, jobs=1, resume=True) for row in cell.rows]
            for one in spreads(rows):
                figures = f"{one.high:.3f} | {one.distance:.3f} | {one.error:.3f}"
                verdict = "" if one.ranks else "ranks nobody"
                print(f"| {name} | {one.scenario} | {one.best} | {one.worst} | {figures} | {verdict} |", flush=True)
    if left_out:
        print(f"\nLeft out for want of --traces FOLDER: {', '.join(left_out)}.")


if __name__ == "__main__":
    main()

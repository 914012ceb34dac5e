"""The works that `against_revision.py` lets two revisions do, by whatever paths each of them has.

Run as a module it is one side: it reads a work's name a line and answers with its figure as JSON.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from revision.learning import fitting, training
from revision.serving import session, vllm_step
from revision.side import NotAvailableError, Run
from revision.simulating import environment, hour, planner, probe, slow_hour


@dataclass(frozen=True)
class Work:
    """One work.

    Attributes:
        prepare: from the folders of package and traces to what does it once.
        unit: of its figure.
        more_is_better: whether that is a rate.
    """

    prepare: Callable[[Path, Path], Run]
    unit: str
    more_is_better: bool = False


WORKS: dict[str, Work] = {
    "hour": Work(hour(0), "ms"),
    "hour-1": Work(hour(1), "ms"),
    "hour-4": Work(hour(4), "ms"),
    "slow-hour": Work(slow_hour, "ms"),
    "env": Work(environment(1, None), "decisions/s", more_is_better=True),
    "env-64x2": Work(environment(64, 2), "decisions/s", more_is_better=True),
    "fit": Work(fitting(10_882), "ms"),
    "fit-10000": Work(fitting(10_000), "ms"),
    "fit-100000": Work(fitting(100_000), "ms"),
    "planner": Work(planner, "ms a tell"),
    "vllm-step": Work(vllm_step, "us a step"),
    "session": Work(session(each=False), "us a step"),
    "session-each": Work(session(each=True), "us a step"),
    "probe": Work(probe, "us, p95"),
    "ppo": Work(training, "decisions/s", more_is_better=True),
}
"""In the order of the table. hour-N closes N windows a second; session-each tells every token by a call of its own."""


def serve(root: Path, traces: Path) -> None:
    """Do works as they are named on standard input."""
    package = Path(str(importlib.import_module("batchpilot").__file__))
    if not package.is_relative_to(root):
        raise SystemExit(f"batchpilot is imported from {package}, not from {root}")
    ready: dict[str, Run] = {}
    for line in sys.stdin:
        name = line.strip()
        try:
            if name not in ready:
                ready[name] = WORKS[name].prepare(root, traces)
            told = ready[name]()
        except NotAvailableError as error:
            told = {"missing": str(error)}
        told = {key: None if isinstance(x, float) and math.isnan(x) else x for key, x in told.items()}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))

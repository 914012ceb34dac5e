"""Which scenarios `batchpilot leaderboard` was told to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from batchpilot.configs.recordings import is_recorded
from batchpilot.configs.scenario import Scenario
from batchpilot.runners.chosen import scenarios_of
from batchpilot.runners.options import refuse
from batchpilot.runners.selection import replay_of


@dataclass(frozen=True, slots=True)
class Source:
    """Where the requests come from.

    Attributes:
        suite: its name.
        scenarios: names or files in place of it.
        traces: folder of the published traces.
        trace: file of a trace in place of all these.
        how: the trace is replayed.
    """

    suite: str
    scenarios: Sequence[str] | None
    traces: Path | None
    trace: Path | None
    how: Mapping[str, Any]

    @property
    def is_whole_suite(self) -> bool:
        """Whether the suite's scenarios run."""
        return self.trace is None and not self.scenarios

    @property
    def label(self) -> str:
        """What the folder of the results is called after: what ran."""
        if self.trace is not None:
            return self.trace.stem
        if self.scenarios:
            return Path(self.scenarios[0]).stem if len(self.scenarios) == 1 else f"{len(self.scenarios)}-scenarios"
        return self.suite

    def named(self, context: typer.Context) -> list[Scenario]:
        """The scenarios, as they are catalogued or written.

        Args:
            context: of the command.

        Raises:
            ValueError: no such suite or scenario, a file is wrong, or the folder of traces would change nothing.
            OSError: a file cannot be read, or the folder lacks a trace.
        """
        if self.trace is not None:
            return [replay_of(self.trace, **self.how)]
        found = scenarios_of(self.suite, self.scenarios, self.traces)
        if self.traces is not None and not any(is_recorded(one) for one in found):
            refuse(context, "where no scenario replays a published trace", "traces")
        return found


def check_options(context: typer.Context) -> None:
    """Refuse options that contradict each other or would change nothing.

    Args:
        context: of the command.

    Raises:
        ValueError: one of them was typed.
    """
    typed = context.params
    if typed["trace"] is None:
        refuse(context, "without --trace", "trace_format", "columns", "rate", "start_s", "duration_s", "skip_bad_rows")
    else:
        refuse(context, "with --trace", "suite_name", "scenarios", "traces")
    if typed["scenarios"]:
        refuse(context, "with --scenario", "suite_name")
    if typed["resume"] and typed["overwrite"]:
        raise ValueError("--resume and --overwrite are both given; results are either kept or replaced")


def simulated_only(context: typer.Context) -> dict[str, bool]:
    """Whether each option that only the simulation has was given, by its name.

    Args:
        context: of the command.
    """
    typed = context.params
    return {
        "--tensor-parallel": typed["tensor_parallel"] is not None,
        "--jobs above 1": typed["jobs"] > 1,
        "--cluster": typed["cluster"] is not None,
    }

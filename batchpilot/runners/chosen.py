"""Which scenarios and seeds a leaderboard's options mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from batchpilot.configs.fleet_scenario import SUITE as FLEETS
from batchpilot.configs.fleet_scenario import fleet_scenario_names
from batchpilot.configs.prototype import PROTOTYPE, prototype_scenarios
from batchpilot.configs.recordings import recording_of, with_recording
from batchpilot.configs.scenario import Scenario, suite, suites
from batchpilot.configs.seeds import seeds_of
from batchpilot.runners.selection import find_scenario


def suite_names() -> list[str]:
    """Every suite that `--suite` takes."""
    return [*suites(), PROTOTYPE, FLEETS]


def scenarios_of(name: str, named: Sequence[str] | None, traces: Path | None) -> list[Scenario]:
    """The scenarios of a suite, or those named instead, with their traces where a folder is given.

    Args:
        name: a suite.
        named: scenarios by name or file; None or none for the suite's.
        traces: folder of the published traces.

    Raises:
        ValueError: no such suite or scenario, or the suite cannot do without traces.
        OSError: a file cannot be read, or the folder lacks a trace.
    """
    if not named and name == PROTOTYPE:
        if traces is None:
            raise ValueError(f"suite {PROTOTYPE} replays the Azure traces; name their folder (--traces FOLDER)")
        return prototype_scenarios(traces)
    found = [find_scenario(one) for one in named] if named else suite(name)
    return [one if traces is None else with_recording(one, traces) for one in found]


def is_of_fleets(suite: str, scenarios: Sequence[str] | None) -> bool:
    """Whether a leaderboard's options mean fleets.

    Args:
        suite: as typed.
        scenarios: names or files in place of it.
    """
    known = fleet_scenario_names()
    return suite == FLEETS or (bool(scenarios) and all(one in known for one in scenarios or ()))


def first_seed(name: str, first: int, count: int, *, whole_suite: bool) -> int:
    """The first seed of a run: counted within the suite's own block, or as typed for scenarios named one by one.

    Args:
        name: a suite.
        first: as typed.
        count: seeds of each scenario.
        whole_suite: whether the suite's scenarios run.

    Raises:
        ValueError: the seeds leave the suite's block.
    """
    return seeds_of(name, first, count)[0] if whole_suite else first


def left_out_notes(scenarios: Sequence[Scenario]) -> list[str]:
    """What a reader must know about the scenarios that cannot run because no trace was given.

    Args:
        scenarios: all that were chosen.
    """
    without = [one for one in scenarios if one.needs_trace]
    published = [one.name for one in without if recording_of(one)]
    notes = [f"Left out for want of --traces FOLDER: {', '.join(published)}."] if published else []
    if len(without) > len(published):
        notes.append("The trace replay was left out: no trace was given (--trace FILE --format NAME).")
    return notes

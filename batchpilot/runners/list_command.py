"""`batchpilot list`: what the other commands know by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from batchpilot.configs.catalogue import devices, models
from batchpilot.configs.scenario import scenario, scenario_names, suites
from batchpilot.configs.tuner_files import presets
from batchpilot.core.files import json_text
from batchpilot.core.names import lookup
from batchpilot.runners.chosen import suite_names
from batchpilot.runners.leaderboard.board import TRACK_TUNERS
from batchpilot.runners.leaderboard.strategies import REFERENCES
from batchpilot.runners.options import JsonOption, reporting_mistakes, stdout_console
from batchpilot.tuners import TUNERS

Told = dict[str, str]


def _tuners() -> Told:
    """Each with the tracks in which it competes when no strategies are named."""
    told = {name: [track for track, default in TRACK_TUNERS.items() if name in default] for name in TUNERS}
    known = {name: f"by default in track {', '.join(tracks)}" if tracks else "" for name, tracks in told.items()}
    return known | dict.fromkeys(REFERENCES, "reference: leaderboard and simulate")


def _devices() -> Told:
    return {
        one.name: f"{one.memory_gb:g} GB, {one.bandwidth_gb_per_s:,.0f} GB/s, {one.peak_tflops:g} TFLOPS"
        for one in devices()
    }


def _models() -> Told:
    return {
        one.name: f"{one.parameters / 1e9:.3g}B parameters, context of {one.max_model_len:,} tokens" for one in models()
    }


def _scenarios() -> Told:
    found = (scenario(name) for name in scenario_names())
    return {one.name: f"{one.model} on {one.device}: {one.description}" for one in found}


def _suites() -> Told:
    members = suites()
    return {name: f"{len(members[name])} scenarios" if name in members else "" for name in suite_names()}


KINDS: dict[str, Callable[[], Told]] = {
    "tuners": _tuners,
    "devices": _devices,
    "models": _models,
    "scenarios": _scenarios,
    "suites": _suites,
    "presets": lambda: dict.fromkeys(presets(), "for --config"),
}
"""What can be listed: names, each with a few words."""


@reporting_mistakes
def list_command(
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(KINDS)}.", autocompletion=lambda: list(KINDS))],
    as_json: JsonOption = False,
) -> None:
    """List what other commands take by name."""
    told = lookup(KINDS, kind, "kind of name")()
    if as_json:
        typer.echo(json_text(told, indent=2))
        return
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for name, words in told.items():
        table.add_row(name, words)
    stdout_console().print(table)

"""Options of `batchpilot leaderboard`, some of them also of `batchpilot compare`, that need more than a line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchpilot.runners.chosen import suite_names
from batchpilot.runners.completion import completing

SuiteOption = Annotated[
    str,
    typer.Option("--suite", help=f"Scenarios: {', '.join(suite_names())}.", autocompletion=completing("suites")),
]
ScenariosOption = Annotated[
    list[str] | None,
    typer.Option(
        "--scenario",
        help="These scenarios (name or file) instead of a suite.",
        autocompletion=completing("scenarios"),
    ),
]
TunersOption = Annotated[
    str,
    typer.Option(
        "--tuners",
        help="Strategies, separated by commas: names, FILE.py:CLASS, policy:FILE.onnx, default.",
        autocompletion=completing("tuners"),
    ),
]
TracesOption = Annotated[
    Path | None,
    typer.Option("--traces", help="Folder of the published traces that some scenarios replay a part of."),
]
BaselineOption = Annotated[
    Path | None,
    typer.Option("--baseline", help="Hold the figures against this baseline; exit status 1 when the gate fails."),
]
SaveBaselineOption = Annotated[Path | None, typer.Option("--save-baseline", help="Write the figures as a baseline.")]

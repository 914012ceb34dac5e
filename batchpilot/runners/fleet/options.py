"""Options of `batchpilot fleet` that need more than a line."""

from __future__ import annotations

from typing import Annotated

import typer

from batchpilot.runners.completion import completing
from batchpilot.runners.fleet.comparison import SCALER_NAMES

ScenarioArgument = Annotated[
    str,
    typer.Argument(
        help="What one replica is asked to serve: a name or a file.", autocompletion=completing("scenarios")
    ),
]
ReplicasOption = Annotated[
    list[str] | None, typer.Option("--replicas", help="4, or H100:2 once for each kind of device.")
]
PollOption = Annotated[
    list[float] | None, typer.Option("--poll-ms", min=0, help="Age of the router's view; 0 is fresh.")
]
ScalerOption = Annotated[
    list[str] | None, typer.Option("--scaler", help=f"{', '.join(SCALER_NAMES)}; none unless given.")
]
PrefillOption = Annotated[
    list[str] | None,
    typer.Option(
        "--prefill", help="Compare with the same replicas split: 1, or H100:1 a kind, prefill, the others decode."
    ),
]
ScaleOption = Annotated[
    list[str] | None,
    typer.Option("--scale", help="Kinds that a scaler adds to and most of each, H100:2; the first unless given."),
]
LoadOption = Annotated[
    float | None, typer.Option("--load", help="Offer this share of what the replicas serve together, by estimate.")
]
TunerOption = Annotated[str, typer.Option("--tuner", help="Of each replica.", autocompletion=completing("tuners"))]
LimitsOption = Annotated[
    str | None, typer.Option("--limits", help="Constant limits instead: batch_size=64,token_budget=2048.")
]

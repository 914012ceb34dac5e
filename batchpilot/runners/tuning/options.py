"""Options of `batchpilot tune` that need more than a line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchpilot.runners.completion import completing
from batchpilot.runners.tuning.bench import OBJECTIVES
from batchpilot.servers import KINDS as SERVERS

ScenarioOption = Annotated[
    str | None,
    typer.Option("--scenario", help="A scenario's name or file.", autocompletion=completing("scenarios")),
]
DurationOption = Annotated[
    float | None,
    typer.Option("--duration-s", help="Its length; the limits are checked on as long a part after it."),
]
ObjectiveOption = Annotated[
    str,
    typer.Option(
        "--objective",
        help=f"What is maximised: {', '.join(OBJECTIVES)}. Several, separated by commas, for what more of one "
        "costs of another; beside these ttft-p95 and refused, which are minimised.",
    ),
]
MinAttainmentOption = Annotated[
    float,
    typer.Option("--min-attainment", min=0.0, max=1.0, help="Share of requests within SLO that the best must reach."),
]
MaxMemoryOption = Annotated[
    float,
    typer.Option("--max-memory", min=0.0, max=1.0, help="Share of the memory that the best may use on average."),
]
MaxRefusedOption = Annotated[
    float, typer.Option("--max-refused", min=0.0, max=1.0, help="Share of the requests that the best may refuse.")
]
PriorOption = Annotated[
    Path | None,
    typer.Option(
        "--prior", help="Step latency as `calibrate --out` wrote it: begin with what a simulation of it expects."
    ),
]
CheckSeedsOption = Annotated[
    int | None,
    typer.Option("--check-seeds", min=0, help="Seeds that follow, to check on; as many when left out."),
]
StorageOption = Annotated[
    str | None,
    typer.Option("--storage", help="Of the study: a journal file or a database URL; OUT/study.journal otherwise."),
]
ServerOption = Annotated[
    str | None,
    typer.Option("--server", help=f"Start this server with each setting instead: {', '.join(SERVERS)}."),
]
CommandArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[-- COMMAND ...]", help="--server: how it is started.")
]

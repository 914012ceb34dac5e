"""Options of `batchpilot load` that need more than a line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchpilot.runners.completion import completing

UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="The server's or gateway's address; without one --backend torch starts a server."),
]
ScenarioOption = Annotated[
    str, typer.Option("--scenario", help="A scenario's name or file.", autocompletion=completing("scenarios"))
]
CompareOption = Annotated[
    bool,
    typer.Option("--compare", help="Also simulate the same requests; --backend torch serves them in-process too."),
]
TunerOption = Annotated[
    str | None,
    typer.Option(
        "--tuner",
        help="Sets the limits of the columns, and of the server that is started.",
        autocompletion=completing("tuners"),
    ),
]
ImportOption = Annotated[
    list[Path] | None,
    typer.Option("--import", help="Send nothing: read result files of this or another load generator."),
]

"""What the commands share: options that mean the same everywhere, and how a user's mistake is told."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer
from rich.console import Console

from batchpilot.configs.catalogue import VARIABLE, add_catalogue

Parameters = ParamSpec("Parameters")

DeviceOption = Annotated[str | None, typer.Option("--device", help="Run on another catalogued device.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Serve another model: catalogued, or a config.json or its folder.")
]
TensorParallelOption = Annotated[
    int | None, typer.Option("--tensor-parallel", min=1, help="Devices that share the model.")
]


def _add_catalogue(path: Path | None) -> Path | None:
    """Add a catalogue now, and for the processes that this one starts."""
    if path is not None:
        try:
            add_catalogue(path)
        except (ValueError, OSError) as error:
            raise typer.BadParameter(str(error)) from None
        named = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
        os.environ[VARIABLE] = os.pathsep.join([*named, str(path.resolve())])
    return path


CatalogueOption = Annotated[
    Path | None,
    typer.Option("--catalogue", callback=_add_catalogue, is_eager=True, help="YAML of your own devices and models."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def stdout_console() -> Console:
    """A console on standard output: as wide as the terminal, 120 columns where there is none."""
    return Console(width=None if sys.stdout.isatty() else 120)


def reporting_mistakes(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Tell a user's mistake (a wrong value, name or file) in one line and exit with status 2, without a traceback.

    Args:
        command: a command that raises ValueError or OSError for what the user got wrong.
    """

    @functools.wraps(command)
    def told(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, OSError) as error:
            typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
            raise typer.Exit(2) from None

    return told

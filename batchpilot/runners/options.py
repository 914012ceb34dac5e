"""What the commands share: options that mean the same everywhere, and how a user's mistake is told."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Annotated, ParamSpec

import typer
from rich.console import Console

Parameters = ParamSpec("Parameters")

DeviceOption = Annotated[str | None, typer.Option("--device", help="Run on another catalogued device.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Serve another catalogued model.")]
TensorParallelOption = Annotated[
    int | None, typer.Option("--tensor-parallel", min=1, help="Devices that share the model.")
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

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
from batchpilot.runners.completion import completing
from batchpilot.workloads.readers import READERS

Parameters = ParamSpec("Parameters")

DeviceOption = Annotated[
    str | None, typer.Option("--device", help="Run on another catalogued device.", autocompletion=completing("devices"))
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Serve another model: catalogued, or a config.json or its folder.",
        autocompletion=completing("models"),
    ),
]
TensorParallelOption = Annotated[
    int | None, typer.Option("--tensor-parallel", min=1, help="Devices that share the model.")
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="Of the weights: fp16, fp8, int8, int4; --backend torch: float32, bfloat16, float16 or int8."
    ),
]
ParametersOption = Annotated[
    Path | None,
    typer.Option("--parameters", help="Step latency as `calibrate --out` wrote it, instead of the catalogue's."),
]
TtftOption = Annotated[float | None, typer.Option("--ttft-ms", help="Promise this TTFT to every request.")]
PrefixCacheOption = Annotated[
    bool | None,
    typer.Option("--prefix-cache/--no-prefix-cache", help="Compute equal beginnings of prompts once, or do not."),
]
TpotOption = Annotated[float | None, typer.Option("--tpot-ms", help="Promise this TPOT to every request.")]


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
TraceFormatOption = Annotated[
    str | None, typer.Option("--format", help=f"Of the trace: {', '.join(READERS)}; guessed, and said, without.")
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        help="Of a CSV trace: arrival=NAME,prompt=NAME,output=NAME,unit=s|ms|us|ns|date; or some, the rest guessed."
    ),
]
RateOption = Annotated[float, typer.Option("--rate", help="Replay the trace this many times as fast.")]
ConfigOption = Annotated[str | None, typer.Option("--config", help="Tuner configuration: a preset or a file.")]
TenantsOption = Annotated[
    Path | None,
    typer.Option(help="YAML file, a line a user: alice: {weight: 2, max_running: 8}; requests name theirs as `user`."),
]
ClusterOption = Annotated[
    str | None, typer.Option(help="Run on a Ray cluster: ray://HOST:10001, auto, or local. Needs the extra ray.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def stdout_console() -> Console:
    """A console on standard output: as wide as the terminal, 120 columns where there is none."""
    return Console(width=None if sys.stdout.isatty() else 120)


def was_given(context: typer.Context, name: str) -> bool:
    """Whether an option was typed, be it with its default value.

    Args:
        context: of the command.
        name: of the command's parameter.
    """
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse(context: typer.Context, why: str, *names: str) -> None:
    """Refuse options that would change nothing, so that none stands in a command line and means nothing.

    Args:
        context: of the command.
        why: ends the sentence "... would change nothing", as in "without --trace".
        *names: the command's parameters that have no effect here.

    Raises:
        ValueError: one of them was typed.
    """
    options = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    typed = [options[name] for name in names if was_given(context, name)]
    if typed:
        raise ValueError(f"{', '.join(typed)} would change nothing {why}; leave it out")


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
        except KeyboardInterrupt:  # of a command that keeps nothing; others say themselves what they kept
            typer.secho("stopped; nothing was kept", err=True, fg=typer.colors.YELLOW)
            raise typer.Exit(130) from None

    return told

"""What `calibrate` and `validate` ask of a torch engine alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from batchpilot.engines.simulated.step_design import MeasuredTrial

DtypeOption = Annotated[str, typer.Option("--dtype", help="Of the weights: float32, bfloat16, float16, int8.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads of torch.")]
KvOption = Annotated[
    int | None, typer.Option("--kv-capacity-tokens", min=1, help="KV tokens to set aside; all that fit by default.")
]
LimitsOption = Annotated[
    str | None, typer.Option("--limits", help="Largest batch and step: batch_size=32,token_budget=512.")
]
TrialsOption = Annotated[int, typer.Option("--trials", min=1, help="Workloads that are measured.")]
RepeatsOption = Annotated[int, typer.Option("--repeats", min=1, help="How often each is measured.")]

TRIALS = 24
REPEATS = 3


def shown(runs: Iterable[MeasuredTrial], total: int) -> Iterable[MeasuredTrial]:
    """Runs passed on, with a bar on standard error where that is a terminal.

    Args:
        runs: as they are measured.
        total: how many there will be.
    """
    console = Console(stderr=True)
    return track(runs, "measuring", total, console=console, transient=True, disable=not console.is_terminal)

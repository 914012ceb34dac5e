"""`batchpilot dataset`: episodes played by any strategy, as a Minari data set."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from batchpilot.runners.options import reporting_mistakes


@reporting_mistakes
def dataset(
    name: Annotated[str, typer.Argument(metavar="ID", help="Minari's id, such as batchpilot/limits-train/policy-v0.")],
    env: Annotated[str, typer.Option(help="The environment of a track and suite.")] = "batchpilot/limits-train-v1",
    behaviour: Annotated[str, typer.Option(help="Who acts: random, or what `leaderboard --tuners` takes.")] = "random",
    epsilon: Annotated[float, typer.Option(help="Share of decisions that are random all the same.")] = 0.0,
    episodes: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the first episode; the others follow it.")] = 0,
) -> None:
    """Collect offline data in Minari's format, into the folder that MINARI_DATASETS_PATH names. Needs minari[hdf5]."""
    from batchpilot.runners.policies.datasets import Plan, collect

    with Progress(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("playing", total=episodes)
        plan = Plan(name, env, behaviour, epsilon, episodes, seed)
        found = collect(plan, lambda done: progress.update(bar, completed=done))
    typer.echo(
        f"{name}: {found.total_episodes} episodes, {found.total_steps:,} decisions; minari.load_dataset({name!r})"
    )

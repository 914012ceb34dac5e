"""`batchpilot train`: PPO on simulated servers, from a training file to a folder that `batchpilot export` reads."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from batchpilot.core.extras import needing
from batchpilot.core.files import json_text, write_atomic
from batchpilot.runners.cluster import ray_cluster
from batchpilot.runners.options import ClusterOption, JsonOption, reporting_mistakes, stdout_console
from batchpilot.runners.policies.train_curves import learning_curves
from batchpilot.runners.progress import ToldProgress
from batchpilot.runners.report.svg import svg_file

if TYPE_CHECKING:
    from batchpilot.agents.training.config import TrainingConfig
    from batchpilot.agents.training.progress import Point
    from batchpilot.agents.training.seeds import Trained

CURVES_CHART = "curves.svg"


@reporting_mistakes
def train(
    config: Annotated[str, typer.Option(help="Training file: a shipped one's name (guarded, limits) or a path.")],
    out: Annotated[Path, typer.Option(help="Training folder.")],
    scenarios: Annotated[
        str, typer.Option(help="Train on these scenarios or suites, separated by commas, instead of drawn ones.")
    ] = "",
    timesteps: Annotated[int | None, typer.Option(min=1, help="Decisions in all, per seed.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas; the file's when left out.")] = "",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Seeds trained at the same time: 1, or all of them on a cluster.")
    ] = None,
    cluster: ClusterOption = None,
    resume: Annotated[bool, typer.Option(help="Go on with what an earlier run left in the folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a policy on simulated servers; write model.zip, policy.json, learning curves and TensorBoard events."""
    with needing("training", "rl"):
        import stable_baselines3  # noqa: F401
    from batchpilot.agents.training.config import load_training_config

    chosen = load_training_config(config)
    changes: dict[str, Any] = {}
    if scenarios:
        changes |= {"scenarios": _names(scenarios), "randomisation": None}
    if timesteps is not None:
        changes["n_timesteps"] = timesteps
    if seeds:
        changes["seeds"] = _numbers(seeds)
    chosen = chosen.changed(**changes) if changes else chosen
    if any(out.glob("seed-*")) and not resume:
        raise ValueError(f"{out} holds a training; give --resume to go on with it, or another --out")
    side_by_side = jobs or (1 if cluster is None else len(chosen.seeds))
    if cluster is not None and min(side_by_side, len(chosen.seeds)) < 2:
        told = f"--jobs {side_by_side} and seeds {list(chosen.seeds)} are one at a time"
        raise ValueError(f"--cluster trains seeds side by side; {told}")
    errors = Console(stderr=True)
    try:
        with nullcontext() if cluster is None else ray_cluster(cluster):
            trained = _train_with_progress(chosen, out if cluster is None else out.resolve(), side_by_side, errors)
    except KeyboardInterrupt:
        errors.print(f"stopped; finished segments are kept in {out}, and the same command with --resume goes on")
        raise typer.Exit(130) from None
    write_atomic(out / CURVES_CHART, svg_file(learning_curves(trained.curves)))
    if as_json:
        typer.echo(json_text({"seed": trained.best.seed, "timesteps": trained.best.timesteps} | _scores(trained)))
        return
    console = stdout_console()
    console.print(_table(trained))
    console.print(f"{out}: next, batchpilot export {out} --out policy.onnx")


def _train_with_progress(config: TrainingConfig, out: Path, jobs: int, console: Console) -> Trained:
    from batchpilot.agents.training.seeds import train_seeds

    if config.warm_start is not None:
        told = f"first {config.warm_start.runs} drawn runs tell what moves are worth, which takes minutes of one core"
        console.print(told, highlight=False, soft_wrap=True)
    with ToldProgress(keeps=True, console=console) as progress:
        rows = {seed: progress.add_task(f"seed {seed}", total=config.n_timesteps) for seed in config.seeds}

        def on_point(point: Point) -> None:
            gain = point.validation["gains"]["base"]
            progress.update(
                rows[point.seed],
                completed=min(point.timesteps, config.n_timesteps),
                description=f"seed {point.seed}  gain {gain:+.3f}",
            )

        return train_seeds(
            config,
            out,
            jobs=jobs,
            on_steps=lambda seed, steps: progress.update(rows[seed], completed=min(steps, config.n_timesteps)),
            on_point=on_point,
        )


def _scores(trained: Trained) -> dict[str, Any]:
    return {"validation": trained.best.validation}


def _table(trained: Trained) -> Table:
    best = trained.best
    told = best.validation
    title = f"validation: goodput {told['goodput_fraction']:.3f} (seed {best.seed} at {best.timesteps:,} decisions)"
    table = Table("against", "mean gain", "worst run", "runs more than 0.01 behind", title=title, title_justify="left")
    for name in told["gains"]:
        table.add_row(name, f"{told['gains'][name]:+.3f}", f"{told['worst'][name]:+.3f}", f"{told['behind'][name]:.0%}")
    return table


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in _names(text)]
    except ValueError:
        raise ValueError(f"--seeds {text!r} must be whole numbers separated by commas, such as 0,1,2") from None

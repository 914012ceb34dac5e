"""`batchpilot tune` on an engine of ours: the study, its progress, what was found and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import optuna
import typer

from batchpilot.core.files import json_text
from batchpilot.core.provenance import config_hash, provenance, versions
from batchpilot.latency.model.parameter_file import ParameterFile, read_parameters
from batchpilot.runners.options import stdout_console
from batchpilot.runners.progress import ToldProgress
from batchpilot.runners.report.tables import tables
from batchpilot.runners.tuning.asked import Bars, Seeds, Sought
from batchpilot.runners.tuning.bench import Bench, SimulatedBench
from batchpilot.runners.tuning.benches import Benches
from batchpilot.runners.tuning.front import aims_of
from batchpilot.runners.tuning.front_command import tune_front
from batchpilot.runners.tuning.output import Written, finish
from batchpilot.runners.tuning.result import conclude
from batchpilot.runners.tuning.search import Search, run_search
from batchpilot.runners.tuning.twin import twin_prior
from batchpilot.tuners.bayesian.exploring import Exploration
from batchpilot.tuners.bayesian.studies import MAXIMISED, redacted


@dataclass(frozen=True)
class Study:
    """What is searched for.

    Attributes:
        track: limits that may move.
        sampler: who proposes.
        objective: what is maximised; several separated by commas.
        trials: in the study, those of earlier runs included.
        seeds: of each trial.
        unseen: seeds that the limits are checked on.
        min_attainment: share of requests within SLO that the best must reach.
        max_memory: share of the memory that it may use on average.
        max_refused: share of the requests that it may refuse.
        prior: step latency that a simulation begins with; None for none.
        grid: whether the whole grid is searched, for comparison.
    """

    track: str
    sampler: str
    objective: str
    trials: int
    seeds: Sequence[int]
    unseen: Sequence[int]
    min_attainment: float
    max_memory: float
    max_refused: float
    prior: ParameterFile | None
    grid: bool

    @classmethod
    def of(cls, sought: Sought, seeds: Seeds, bars: Bars, *, simulated: bool) -> Study:
        """What a command line asks for.

        Args:
            sought: what is searched for.
            seeds: that are tuned and checked on.
            bars: what the best must keep to.
            simulated: whether the engine is; only then is the whole grid searched.

        Raises:
            ValueError: the file of the prior is wrong.
            OSError: it cannot be read.
        """
        return cls(
            track=sought.track,
            sampler=sought.sampler,
            objective=sought.objective,
            trials=sought.trials,
            seeds=seeds.known,
            unseen=seeds.unseen,
            min_attainment=bars.min_attainment,
            max_memory=bars.max_memory,
            max_refused=bars.max_refused,
            prior=None if sought.prior is None else read_parameters(sought.prior),
            grid=sought.grid and simulated,
        )

    @property
    def directions(self) -> tuple[str, ...]:
        """Of the objectives, in their order."""
        return tuple(aim.direction for aim in aims_of(self.objective)) if self.several else MAXIMISED

    @property
    def several(self) -> bool:
        """Whether it looks for a front."""
        return "," in self.objective


@dataclass(frozen=True)
class Running:
    """Where and how a study runs.

    Attributes:
        backend: simulated or torch.
        folder: for what comes of it.
        storage: a journal file or a database URL; None for a journal in the folder.
        jobs: processes, or workers of the cluster.
        cluster: its address; None for this machine.
        resume: whether a study that is there is gone on with.
        overwrite: whether it is replaced.
    """

    backend: str
    folder: Path
    storage: str | None
    jobs: int
    cluster: str | None
    resume: bool
    overwrite: bool


def tune_engine(benches: Benches, study: Study, running: Running, *, as_json: bool) -> None:
    """Search, check, write down and tell.

    Args:
        benches: what trials run on.
        study: what is searched for.
        running: where and how.
        as_json: print the results instead of tables.

    Raises:
        ValueError: a study is there and neither resumed nor replaced, or another one is resumed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search, name = _search(benches, study, running), benches.scenario.name
    _settle(search, running, name)
    if study.several:
        _front(search, benches, study, running, as_json=as_json)
        return
    if study.prior is not None:
        search = replace(search, prior=twin_prior(search, benches.known, study.prior.parameters))
    exploration = _run_with_progress(search, benches.known, running)
    found = conclude(search, exploration, benches.known, benches.unseen, study.unseen, grid=study.grid)
    origin = _origin(search, benches, study)
    title = f"Limits for {name}"
    written = finish(running.folder, search, found, title=title, objective=study.objective, origin=origin)
    if as_json:
        typer.echo(json_text(written.results, indent=1))
    else:
        _show(written, benches, running.folder, search.study)


def _front(search: Search, benches: Benches, study: Study, running: Running, *, as_json: bool) -> None:
    """Look for what more of one objective costs of another."""
    tune_front(
        search,
        cast(SimulatedBench, benches.known),
        cast(SimulatedBench, benches.unseen),
        study.unseen,
        objectives=study.objective,
        title=f"Limits for {benches.scenario.name}",
        served=benches.served,
        folder=running.folder,
        as_json=as_json,
    )


def _origin(search: Search, benches: Benches, study: Study) -> dict[str, Any]:
    """What whoever reads the results must know to repeat them."""
    return provenance(search.sampler_seed, dict(search.settings)) | {
        **benches.served,
        "seeds": list(search.seeds),
        "unseen_seeds": list(study.unseen),
        "study": search.study,
        "optuna": optuna.__version__,
        "prior": search.settings["prior"],
    }


def _show(written: Written, benches: Benches, folder: Path, study: str) -> None:
    console = stdout_console()
    typer.secho(written.verdict, bold=True)
    typer.echo("; ".join(f"{name} {value}" for name, value in benches.served.items()))
    for table in tables(written.comparison):
        console.print(table)
    for line in (*written.notes, *(f"{name}: {text}" for name, text in written.pasted.items())):
        typer.echo(line)
    typer.echo(f"{folder}/report.html, results.json, limits.yaml, vllm.yaml; study {study}")


def _search(benches: Benches, study: Study, running: Running) -> Search:
    settings: dict[str, Any] = {
        "scenario": benches.scenario.content(),
        "backend": running.backend,
        "served": benches.served,
        "track": study.track,
        "sampler": study.sampler,
        "objective": study.objective,
        "seeds": list(study.seeds),
        "min_attainment": study.min_attainment,
        "max_memory": study.max_memory,
        "max_refused": study.max_refused,
        "prior": None if study.prior is None else study.prior.estimate.provenance,
        "batchpilot": versions()["batchpilot"],
    }
    journal = running.folder / "study.journal"
    return Search(
        track=study.track,
        sampler=study.sampler,
        trials=study.trials,
        seeds=tuple(study.seeds),
        storage=running.storage or str(journal.resolve() if running.cluster else journal),
        study=f"{benches.scenario.name}-{study.track}-{config_hash(settings)}",
        sampler_seed=study.seeds[0],
        min_slo_attainment=study.min_attainment,
        max_memory_fraction=study.max_memory,
        max_refused_fraction=study.max_refused,
        settings=settings,
        directions=study.directions,
    )


def _settle(search: Search, running: Running, name: str) -> None:
    """Make sure that nothing is replaced, and no study gone on with, without being told."""
    mended = search.mend()
    if mended:
        typer.secho(mended, err=True, fg=typer.colors.YELLOW)
    if running.resume:
        search.refuse_another("" if running.storage is None else f"{name}-")
    if running.overwrite:
        search.forget()
    elif not running.resume:
        held = search.explore().told
        if held or (running.folder / "results.json").exists():
            what = f"study {search.study} holds {held} trials" if held else f"{running.folder} holds results"
            raise ValueError(f"{what} already; add --resume or --overwrite, or give another --out")


def _run_with_progress(search: Search, bench: Bench, running: Running) -> Exploration:
    told_last = 0
    try:
        with ToldProgress() as progress:
            bar = progress.add_task("tuning", total=search.trials)

            def advance(told: int, best: float | None) -> None:
                nonlocal told_last
                told_last = told
                text = "tuning" if best is None else f"best {best:.4g}"
                progress.update(bar, completed=told, description=text)

            return run_search(search, bench, jobs=running.jobs, cluster=running.cluster, on_progress=advance)
    except KeyboardInterrupt:
        typer.secho(
            f"stopped: {told_last} of {search.trials} trials are kept in {redacted(search.storage)}; the same command "
            "with --resume goes on",
            err=True,
            fg=typer.colors.YELLOW,
        )
        raise typer.Exit(130) from None

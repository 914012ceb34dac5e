"""What `batchpilot tune` was told, in groups, and what each means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from batchpilot.configs.scenario import Scenario
from batchpilot.core.limits import TRACKS
from batchpilot.core.names import lookup
from batchpilot.envs.scenarios import prepare
from batchpilot.runners.options import refuse, was_given
from batchpilot.runners.selection import Changes, find_scenario, replay_of
from batchpilot.runners.tuning.bench import ENERGY, OBJECTIVES
from batchpilot.runners.tuning.live.command import Asked, Launch
from batchpilot.runners.tuning.live.study import Bounds
from batchpilot.tuners.bayesian import make_sampler

_TORCH_SCENARIO = "quick-chat"

_SEARCHED = (
    *("backend", "sampler", "objective", "min_attainment", "max_memory", "max_refused", "prior", "seeds"),
    *("check_seeds", "grid", "jobs", "cluster", "storage", "device", "catalogue", "model", "tensor_parallel"),
    *("dtype", "threads", "kv_capacity_tokens", "parameters", "requests"),
)
"""Options of a search on an engine of ours."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the requests come from.

    Attributes:
        name: of a scenario, or its file.
        trace: file of a trace.
        how: the trace is replayed.
        backend: simulated or torch.
    """

    name: str | None
    trace: Path | None
    how: Mapping[str, Any]
    backend: str

    def scenario(self) -> Scenario:
        """The scenario that is meant.

        Raises:
            ValueError: none is named or two are, there is none of that name, or a file is wrong.
            OSError: a file cannot be read.
        """
        if self.name is not None and self.trace is None:
            return find_scenario(self.name)
        if self.name is None and self.trace is not None:
            return replay_of(self.trace, **self.how)
        if self.name is None and self.backend == "torch":
            return find_scenario(_TORCH_SCENARIO)
        raise ValueError("name either --scenario NAME|FILE or --trace FILE")

    def label(self, scenario: Scenario) -> str:
        """What the folder of the results is called after.

        Args:
            scenario: as `scenario` found it.
        """
        return self.trace.stem if self.trace else scenario.name


@dataclass(frozen=True, slots=True)
class Sought:
    """What is searched for.

    Attributes:
        track: limits that may move.
        sampler: who proposes.
        objective: what is maximised; several separated by commas.
        trials: in the study, those of earlier runs included.
        prior: file of a step latency that a simulation begins with; None for none.
        grid: whether the whole grid is searched, for comparison.
    """

    track: str
    sampler: str
    objective: str
    trials: int
    prior: Path | None
    grid: bool

    @property
    def several(self) -> bool:
        """Whether it looks for a front."""
        return "," in self.objective

    def check(self, seed: int) -> None:
        """Make sure that everything named is known.

        Args:
            seed: of the sampler.

        Raises:
            ValueError: a name is unknown.
        """
        lookup(TRACKS, self.track, "track")
        if not self.several:
            lookup(OBJECTIVES, self.objective, "objective")
        make_sampler(self.sampler, seed)


@dataclass(frozen=True, slots=True)
class Seeds:
    """Which seeds are tuned on, and which the limits are checked on.

    Attributes:
        first: the first of them.
        count: seeds of each trial.
        checked: seeds that follow; None for as many.
    """

    first: int
    count: int
    checked: int | None

    @property
    def known(self) -> range:
        """Those of each trial."""
        return range(self.first, self.first + self.count)

    @property
    def unseen(self) -> range:
        """Those that follow."""
        after = self.first + self.count
        return range(after, after + (self.count if self.checked is None else self.checked))


@dataclass(frozen=True, slots=True)
class Bars:
    """What the best must keep to.

    Attributes:
        min_attainment: share of requests within SLO that it must reach.
        max_memory: share of the memory that it may use on average.
        max_refused: share of the requests that it may refuse.
    """

    min_attainment: float
    max_memory: float
    max_refused: float


@dataclass(frozen=True, slots=True)
class Kept:
    """Where results go, and what becomes of those that are there.

    Attributes:
        out: folder as typed; None for one called after what is tuned.
        resume: whether a study that is there is gone on with.
        overwrite: whether it is replaced.
    """

    out: Path | None
    resume: bool
    overwrite: bool

    def folder(self, *words: str) -> Path:
        """For what comes of it.

        Args:
            *words: end the folder's name where none was typed.
        """
        return self.out or Path("reports") / "-".join(("tune", *words))


def refuse_unused(context: typer.Context) -> None:
    """Refuse options that would change nothing, where it does not take an engine to say so.

    Args:
        context: of the command.

    Raises:
        ValueError: one of them was typed.
    """
    if context.params["trace"] is None:
        refuse(context, "without --trace", "trace_format", "columns", "rate", "start_s", "duration_s")
    if context.params["server_name"] is not None:
        refuse(context, "with --server", *_SEARCHED)
        return
    refuse(context, "without --server", "minutes", "start_timeout_s", "grace_s", "served_model")
    if command := context.params["command"]:
        raise ValueError(f"{' '.join(command)!r} is no option; a server's command line comes with --server")


def simulated_only(context: typer.Context) -> dict[str, bool]:
    """Whether each option that only the simulation has was given, by its name.

    Args:
        context: of the command.
    """
    typed = context.params
    objective = typed["objective"]
    return {
        "--tensor-parallel": typed["tensor_parallel"] is not None,
        "--jobs above 1": typed["jobs"] > 1,
        "--cluster": typed["cluster"] is not None,
        f"--objective {objective}": objective == ENERGY or "," in objective,
        "--grid": was_given(context, "grid") and typed["grid"],
    }


def check_search(context: typer.Context, sought: Sought, *, simulated: bool) -> None:
    """Make sure that a search on an engine of ours can begin as it was asked for.

    Args:
        context: of the command.
        sought: what is searched for.
        simulated: whether the engine is.

    Raises:
        ValueError: a name is unknown, or options contradict each other or would change nothing.
    """
    typed = context.params
    if simulated:
        refuse(context, "without --backend torch", "requests")
    if sought.several:
        refuse(context, f"with --objective {sought.objective}", "prior", "jobs", "cluster", "grid")
    sought.check(typed["first_seed"])
    if typed["cluster"] is not None and typed["jobs"] == 1:
        raise ValueError("--cluster runs trials side by side; give --jobs, its workers, 2 at least")
    if typed["resume"] and typed["overwrite"]:
        raise ValueError("--resume and --overwrite are both given; a study is either kept or replaced")


def of_server(
    launch: Launch, source: Source, changes: Changes, track: str, bounds: Bounds, seed: int, kept: Kept
) -> Asked:
    """A study of a server that is started with each setting.

    Args:
        launch: the server.
        source: where the requests come from.
        changes: their promise.
        track: limits that may move.
        bounds: when it ends.
        seed: of workload, prompts, intervals and the twin.
        kept: where results go.

    Raises:
        ValueError: the requests cannot be found or drawn.
        OSError: a file cannot be read.
    """
    load = source.scenario()
    run = prepare(Changes(ttft_ms=changes.ttft_ms, tpot_ms=changes.tpot_ms).of(load), seed)
    folder = kept.folder(launch.server, source.label(load))
    return Asked(launch, run.requests, run.scenario.content(), track, bounds, seed, folder, kept.resume, kept.overwrite)

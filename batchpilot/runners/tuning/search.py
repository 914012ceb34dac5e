"""The search of `tune`: trials on a bench, in one process or many on one storage, kept whatever happens.

Each trial is the mean over several seeds, the same for all. After each seed the mean so far is reported, and a trial
below the median of the others at that seed is pruned.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.synchronize import Event
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
from joblib import Parallel, delayed
from optuna.pruners import MedianPruner

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.core.files import plain
from batchpilot.core.limits import Limits
from batchpilot.runners.cluster import ray_cluster
from batchpilot.runners.tuning.bench import Bench, Figures
from batchpilot.runners.tuning.resuming import differences, told
from batchpilot.tuners.bayesian.exploring import Exploration
from batchpilot.tuners.bayesian.journal import mend_journal
from batchpilot.tuners.bayesian.prior import Prior
from batchpilot.tuners.bayesian.samplers import STARTUP_TRIALS
from batchpilot.tuners.bayesian.space import SearchSpace
from batchpilot.tuners.bayesian.studies import MAXIMISED, counts, open_storage, redacted

TRIALS_BEFORE_PRUNING = 5
TRIALS_A_ROUND = 4
"""That a worker of a cluster runs before it is heard of."""
_POLL_S = 0.2
SETTINGS = "settings"
"""The study attribute that says what it was asked for."""
_UNKNOWN = "what it was asked for is not known"


@dataclass(frozen=True)
class Search:
    """What is searched, how, and where it is kept.

    Attributes:
        track: the limits that may move.
        sampler: one of `SAMPLERS`.
        trials: how many are wanted in the study, those of earlier runs included.
        seeds: of the runs of each trial.
        storage: URL or journal file.
        study: its name there.
        sampler_seed: of the sampler's draws.
        min_slo_attainment: a trial below it is not feasible.
        max_memory_fraction: a trial above it is not feasible.
        max_refused_fraction: likewise.
        settings: everything that makes its trials what they are; kept with the study.
        prior: what a twin expects of settings; None for nothing.
        directions: "maximize" or "minimize", one an objective.
    """

    track: str
    sampler: str
    trials: int
    seeds: tuple[int, ...]
    storage: str
    study: str
    sampler_seed: int = 0
    min_slo_attainment: float = 0.0
    max_memory_fraction: float = 1.0
    max_refused_fraction: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    prior: Prior | None = None
    directions: tuple[str, ...] = MAXIMISED

    @property
    def space(self) -> SearchSpace:
        """What may be set."""
        return SearchSpace(self.track, SERVER_DEFAULT)

    def explore(self, worker: int = 0) -> Exploration:
        """The study, opened; trials of processes that died are told as failed.

        Args:
            worker: tells the draws of one process from those of another.
        """
        return Exploration(
            self.space,
            self.sampler,
            name=self.study,
            storage=open_storage(self.storage),
            seed=(self.sampler_seed, worker),
            startup_trials=STARTUP_TRIALS,
            pruner=MedianPruner(n_startup_trials=TRIALS_BEFORE_PRUNING, n_min_trials=TRIALS_BEFORE_PRUNING),
            prior=self.prior,
            directions=self.directions,
        )

    def begin(self, tpot_ms: float) -> Exploration:
        """The study with what servers ship as its first trial, then the best guesses of its prior.

        Args:
            tpot_ms: what step targets are multiples of.
        """
        exploration = self.explore()
        exploration.study.set_user_attr(SETTINGS, plain(self.settings))
        exploration.suggest(self.space.base_params(tpot_ms))
        if self.prior is not None:
            exploration.believe(self.prior)
        return exploration

    def mend(self) -> str | None:
        """Cut a crash's leavings off the journal; returns what was done, None where nothing was."""
        return None if "://" in self.storage else mend_journal(Path(self.storage))

    def refuse_another(self, alike: str = "") -> None:
        """Say how an earlier study differs, where the storage holds others but not this one.

        Args:
            alike: what the names of studies begin with that this one may be mistaken for.

        Raises:
            ValueError: there is such a study; the message names each setting that differs.
        """
        storage = open_storage(self.storage)
        others = {study.study_name: study.user_attrs.get(SETTINGS) for study in storage.get_all_studies()}
        if self.study in others:
            return
        differing = {
            name: [_UNKNOWN] if was is None else differences(was, self.settings)
            for name, was in others.items()
            if name.startswith(alike)
        }
        if differing:
            nearest = min(differing, key=lambda name: len(differing[name]))
            raise ValueError(
                f"{redacted(self.storage)} holds study {nearest}, not what is asked: {told(differing[nearest])}; "
                "ask for the same, begin anew with --overwrite, or give another --out"
            )

    def forget(self) -> None:
        """Delete the study, if there is one."""
        storage = open_storage(self.storage)
        if self.study in optuna.study.get_all_study_names(storage):
            optuna.delete_study(study_name=self.study, storage=storage)


def run_search(
    search: Search,
    bench: Bench,
    *,
    jobs: int = 1,
    cluster: str | None = None,
    on_progress: Callable[[int, float | None], None] = lambda told, best: None,
) -> Exploration:
    """Run trials until the study holds as many as wanted.

    Args:
        search: what is searched.
        bench: what limits are tried on; it is sent to the other processes.
        jobs: processes, or workers on the cluster; with more than one the proposals depend on who is done first.
        cluster: address of a Ray cluster (see `ray_cluster`), whose workers reach the storage; None for this machine.
        on_progress: told how many trials are told, and the best value.

    Returns:
        The study.

    Raises:
        KeyboardInterrupt: stopped by hand; finished trials are kept, and running again goes on.
        ValueError: the storage cannot be opened, or a process died.
    """
    exploration = search.begin(bench.tpot_ms(search.seeds[0]))
    on_progress(exploration.told, exploration.best_value())
    if cluster is not None:
        _run_there(search, bench, exploration, jobs, cluster, on_progress)
        return exploration
    if jobs == 1:
        with finishing_first() as interrupted:
            while not interrupted() and run_trial(search, bench, exploration):
                on_progress(exploration.told, exploration.best_value())
        if interrupted():
            raise KeyboardInterrupt
        return exploration
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    workers = [
        context.Process(target=_work, args=(search, bench, worker, stop), daemon=True) for worker in range(1, jobs + 1)
    ]
    for worker in workers:
        worker.start()
    try:
        while any(worker.is_alive() for worker in workers):
            for worker in workers:
                worker.join(_POLL_S)
            on_progress(exploration.told, exploration.best_value())
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    died = [worker.exitcode for worker in workers if worker.exitcode]
    if died:
        raise ValueError(f"{len(died)} of {jobs} processes died (exit status {died[0]}); the finished trials are kept")
    return exploration


def _run_there(
    search: Search,
    bench: Bench,
    exploration: Exploration,
    jobs: int,
    cluster: str,
    on_progress: Callable[[int, float | None], None],
) -> None:
    """Run trials on a cluster, round after round: its backend hands results over only when all of a call are done."""
    numbers = count(1)
    with ray_cluster(cluster):
        while sum(map(counts, exploration.trials())) < search.trials:
            workers = [next(numbers) for _ in range(jobs)]
            Parallel(n_jobs=jobs, batch_size=1)(delayed(_work_a_round)(search, bench, worker) for worker in workers)
            on_progress(exploration.told, exploration.best_value())


def _work_a_round(search: Search, bench: Bench, worker: int) -> None:
    """What each worker of a cluster does at a time."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    exploration = search.explore(worker)
    for _ in range(TRIALS_A_ROUND):
        if not run_trial(search, bench, exploration):
            return


def run_trial(search: Search, bench: Bench, exploration: Exploration) -> bool:
    """Run one trial, unless the study holds enough.

    Args:
        search: what is searched.
        bench: what limits are tried on.
        exploration: the study.

    Returns:
        Whether a trial was run.
    """
    if sum(map(counts, exploration.trials())) >= search.trials:
        return False
    limits = exploration.ask(bench.tpot_ms(search.seeds[0]))
    try:
        figures: list[Figures] = []
        for seed in search.seeds:
            figures.append(bench.run(limits, seed))
            value = mean_value(figures)
            if exploration.is_hopeless(value, len(figures)) and len(figures) < len(search.seeds):
                exploration.tell(None, constraints(search, figures))
                return True
        exploration.tell(value, constraints(search, figures))
    finally:
        exploration.abandon()
    return True


def mean_value(figures: list[Figures]) -> float:
    """Mean of what is maximised.

    Args:
        figures: one a seed, at least one.
    """
    return sum(one.value for one in figures) / len(figures)


def constraints(search: Search, figures: list[Figures]) -> Mapping[str, float]:
    """How far each constraint is violated; at most 0 is kept.

    Args:
        search: says what is feasible.
        figures: one a seed, at least one.
    """
    attainment = sum(one.slo_attainment for one in figures) / len(figures)
    refused = sum(one.refused_fraction for one in figures) / len(figures)
    return {
        "failures": float(sum(one.failures for one in figures)),
        "memory": max(one.memory_fraction for one in figures) - search.max_memory_fraction,
        "slo_attainment": search.min_slo_attainment - attainment,
        "refused": refused - search.max_refused_fraction,
    }


def best_limits(search: Search, exploration: Exploration, tpot_ms: float) -> Limits:
    """The limits of the best trial.

    Args:
        search: what was searched.
        exploration: the study.
        tpot_ms: what step targets are multiples of.

    Raises:
        ValueError: no trial is complete.
    """
    best = exploration.best()
    if best is None:
        raise ValueError(f"no trial of study {search.study} is complete; run more trials")
    return exploration.limits_of(best, tpot_ms)


@contextmanager
def finishing_first() -> Iterator[Callable[[], bool]]:
    """Ctrl-C waits for the trial that runs, so that no time is lost; pressed again it does not wait.

    Yields:
        Whether it was pressed.
    """
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _work(search: Search, bench: Bench, worker: int, stop: Event) -> None:
    """What each process does. Ctrl-C reaches every process of a terminal; only the first one answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    exploration = search.explore(worker)
    while not stop.is_set() and run_trial(search, bench, exploration):
        pass

"""Studies: where they are kept, how one is opened again after a kill, and which trial of one is the best."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import psutil
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from batchpilot.tuners.bayesian.journal import journal_backend, mend_journal
from batchpilot.tuners.bayesian.prior import penalised

OWNER = "owner"
"""The trial attribute that says which process runs it."""

ABANDONED_AFTER = timedelta(hours=1)
"""How long a running trial is left alone when its process cannot be looked at, being on another machine."""

UNCLAIMED_AFTER = timedelta(minutes=1)
"""How long a running trial may say no owner: a process that is killed while it begins one leaves such a trial."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def open_storage(storage: str | Path | None) -> BaseStorage:
    """Where a study lives.

    Args:
        storage: an SQLAlchemy URL (PostgreSQL, MySQL, SQLite), else the path of a journal file, made when missing and
            mended with a warning when damaged; None keeps the study in memory.

    Raises:
        ValueError: the database cannot be reached, or its driver is not installed.
        OSError: the journal cannot be written.
    """
    if storage is None:
        return InMemoryStorage()
    if "://" in str(storage):
        return _database(str(storage))
    mended = mend_journal(Path(storage))
    if mended:
        warnings.warn(mended, stacklevel=2)
    return JournalStorage(journal_backend(Path(storage)))


MAXIMISED = ("maximize",)
"""The one objective of a study where nothing else is said."""


def open_study(name: str, storage: BaseStorage, pruner: BasePruner, directions: Sequence[str] = MAXIMISED) -> Study:
    """A study, new or as it was left; trials of processes that died are told as failed.

    Args:
        name: within the storage.
        storage: where it lives.
        pruner: says which trials are hopeless.
        directions: "maximize" or "minimize", one an objective.
    """
    with quiet():
        study = optuna.create_study(
            study_name=name, storage=storage, pruner=pruner, directions=list(directions), load_if_exists=True
        )
    fail_abandoned(study)
    return study


def claim(trial: Trial) -> None:
    """Write on a trial which process runs it.

    Args:
        trial: just asked for.
    """
    trial.set_user_attr(OWNER, {"host": platform.node(), "pid": os.getpid(), "started": psutil.Process().create_time()})


def fail_abandoned(study: Study) -> int:
    """Tell trials as failed whose process is gone.

    Args:
        study: any.

    Returns:
        How many there were.
    """
    abandoned = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if _is_dead(trial)]
    for trial in abandoned:
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    return len(abandoned)


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial uses up budget: it is complete or pruned, or some process runs it.

    Args:
        trial: any.
    """
    return trial.state in FINISHED or (trial.state is TrialState.RUNNING and OWNER in trial.user_attrs)


def conclude(
    study: Study, trial: Trial, value: float | Sequence[float] | None, constraints: Mapping[str, float]
) -> None:
    """Tell a trial's end.

    Args:
        study: the trial's.
        trial: running.
        value: what it was worth, in each objective where there are several; None for a trial that was pruned.
        constraints: by name; above 0 is violated.
    """
    for name, violation in constraints.items():
        trial.set_constraint(name, violation)
    if value is None:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, value)


def best_trial(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """The best complete trial: the least violation of constraints first, then the largest value.

    Args:
        trials: of a study that is maximised.
    """
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    return max(complete, key=lambda trial: (-violation(trial), trial.value), default=None)


def violation(trial: FrozenTrial) -> float:
    """By how much a trial violates its constraints altogether, 0 for a feasible one.

    Args:
        trial: finished.
    """
    return float(sum(max(excess, 0.0) for excess in trial.constraints.values()))


def redacted(storage: str | Path) -> str:
    """A storage for people to read: a URL without user and password.

    Args:
        storage: URL or path.
    """
    scheme, separator, rest = str(storage).partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if separator else scheme


def merit(trial: FrozenTrial, scale: float) -> float:
    """What a complete trial is worth to a prior: its value, less what it violates constraints by.

    Args:
        trial: complete.
        scale: the largest value that the prior expects.
    """
    return float(penalised(float(trial.value or 0.0), violation(trial), scale))


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna without its remarks on standard error."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _database(url: str) -> RDBStorage:
    try:
        with quiet():
            return RDBStorage(url)
    except ImportError as error:
        raise ValueError(f"storage {redacted(url)}: {error}; install the database's driver") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("sqlalchemy", "optuna"):
            raise
        raise ValueError(f"storage {redacted(url)} cannot be opened: {type(error).__name__}") from error


def _is_dead(trial: FrozenTrial) -> bool:
    owner = trial.user_attrs.get(OWNER)
    if owner is None or owner["host"] != platform.node():
        patience = UNCLAIMED_AFTER if owner is None else ABANDONED_AFTER
        started = trial.datetime_start
        return bool(started is None or datetime.now() - started > patience)
    try:
        return bool(abs(psutil.Process(owner["pid"]).create_time() - owner["started"]) > 1.0)
    except psutil.Error:
        return True

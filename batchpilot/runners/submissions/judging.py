"""Judging: a strategy, what servers ship and the best fixed setting in hindsight, on the same runs of a suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchpilot.baselines import SERVER_DEFAULT, Setting
from batchpilot.configs.scenario import Scenario, suite
from batchpilot.configs.seeds import seeds_of
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core.limits import TRACKS
from batchpilot.core.names import lookup
from batchpilot.core.provenance import config_hash, git_revision, versions
from batchpilot.core.slo import SLO
from batchpilot.envs.episode import DEFAULT, HINDSIGHT
from batchpilot.envs.registration import env_id, suite_ids
from batchpilot.runners.leaderboard.evaluation import Cell, Task
from batchpilot.runners.leaderboard.jobs import Runnable, run_tasks
from batchpilot.runners.leaderboard.strategies import POLICY, REFERENCES, check_strategies, make_strategy
from batchpilot.runners.submissions.record import Record, ScenarioScores, figures_of, test_set_of
from batchpilot.tuners.planning import SHIPPED_POLICIES
from batchpilot.tuners.policy import PolicyFile, read_policy


@dataclass(frozen=True)
class Entry:
    """What is to be judged.

    Attributes:
        strategy: as `leaderboard --tuners` takes it; a policy's file may stand alone.
        track: the limits that hindsight may set; None for the policy's own.
        suite: the scenarios; those that need a published trace are left out, as in the environment of that id.
        seeds: of each scenario, the first of the suite's block.
        name: what the page calls it; None for the strategy's own.
    """

    strategy: str
    track: str | None = None
    suite: str = "held-out"
    seeds: int = 3
    name: str | None = None


def judge(
    entry: Entry,
    folder: Path,
    *,
    jobs: int = 1,
    on_done: Callable[[Runnable, bool], None] | None = None,
) -> Record:
    """Play every run of the suite and write down what came of it.

    Args:
        entry: what is judged.
        folder: where finished runs are kept, so that the references are found once.
        jobs: processes; the numbers do not depend on it.
        on_done: told each task as it finishes, and whether it was taken from disk.

    Raises:
        ValueError: no such strategy, track or suite, a policy that cannot be loaded or raised, or a track that is not
            the policy's.
        OSError: a file cannot be read.
    """
    typed = _typed(entry.strategy)
    policy = policy_behind(typed)
    check_strategies([typed])
    track = _track(entry.track, typed)
    lookup(dict.fromkeys(played for _, played in suite_ids().values()), entry.suite, "suite")
    scenarios = [one for one in suite(entry.suite) if not one.needs_trace]
    seeds = list(seeds_of(entry.suite, 0, entry.seeds))
    config = TunerConfig()

    def played(tuners: tuple[str, ...]) -> list[Cell]:
        tasks = [Task(one, seed, track, tuners, config) for one in scenarios for seed in seeds]
        return run_tasks(tasks, folder, jobs=jobs, resume=True, on_done=on_done)

    scores = _scores(scenarios, len(seeds), played((typed,)), played((DEFAULT, HINDSIGHT)))
    is_file = typed.startswith(f"{POLICY}:")
    shown = Path(typed.removeprefix(f"{POLICY}:")).name
    return Record(
        id=env_id(track, entry.suite),
        name=entry.name or (Path(shown).stem if is_file else shown),
        strategy=shown,
        sha256=None if policy is None else policy.digest,
        track=track,
        suite=entry.suite,
        seeds=seeds,
        test_set=test_set_of(track, seeds, scores),
        scenarios=scores,
        figures=figures_of(scores),
        training={} if policy is None else dict(policy.description.training),
        command=_command(entry, shown, track),
        config_hash=config_hash([config.to_dict(), [one.content() for one in scenarios], track]),
        git_revision=git_revision(),
        versions=versions(),
    )


def policy_behind(strategy: str) -> PolicyFile | None:
    """The policy file that a strategy follows, checked: the user's own or a shipped one; None for one that has none.

    Args:
        strategy: as `leaderboard --tuners` takes it.

    Raises:
        ValueError: it is no policy, or damaged.
        OSError: it cannot be read.
    """
    if strategy.startswith(f"{POLICY}:"):
        return read_policy(strategy.removeprefix(f"{POLICY}:"))
    shipped = SHIPPED_POLICIES / f"{strategy.removeprefix(f'{POLICY}-')}.onnx"
    return read_policy(shipped) if strategy.startswith(f"{POLICY}-") and shipped.is_file() else None


def _typed(strategy: str) -> str:
    """A strategy as `leaderboard --tuners` takes it."""
    typed = f"{POLICY}:{strategy}" if strategy.endswith(".onnx") else strategy
    typed = typed.replace(f"{POLICY}:{POLICY}:", f"{POLICY}:")
    if typed in REFERENCES:
        raise ValueError(f"{typed} is a reference, which the others are held against; it is on the page by itself")
    return typed


def _scores(
    scenarios: Sequence[Scenario], seeds: int, ours: Sequence[Cell], theirs: Sequence[Cell]
) -> dict[str, ScenarioScores]:
    """What each scenario gave: cells of the strategy, and of what is shipped and hindsight, seed after seed."""
    for cell in ours:
        for error in cell.failed.values():
            raise ValueError(error)
    shares = [_share(cell, 0) for cell in ours]
    default, hindsight = ([_share(cell, k) for cell in theirs] for k in (0, 1))
    scores = {}
    for place, scenario in enumerate(scenarios):
        runs = slice(place * seeds, (place + 1) * seeds)
        scores[scenario.name] = ScenarioScores(
            goodput=shares[runs],
            default=default[runs],
            hindsight=hindsight[runs],
            content_hash=config_hash(scenario.content()),
        )
    return scores


def _share(cell: Cell, place: int) -> float:
    return float(cell.rows[place]["goodput_fraction"])


def _track(given: str | None, typed: str) -> str:
    """The track in which a strategy competes: a policy's own, else the given one."""
    if given is not None:
        lookup(TRACKS, given, "track")
    built = make_strategy(typed, Setting(TunerConfig(), SERVER_DEFAULT, SLO()))
    own: Any = built.status().get("track")
    if own is None and given is None:
        raise ValueError(f"{typed} may compete in any track; say in which: --track {', '.join(TRACKS)}")
    if own is not None and given not in (None, own):
        raise ValueError(f"{typed} competes in track {own!r}, not in {given!r}; leave --track out")
    return str(own or given)


def _command(entry: Entry, shown: str, track: str) -> str:
    """What gives this record again, from the folder that the file lies in."""
    words: Sequence[str] = (
        "batchpilot submit",
        shown,
        *(() if entry.track is None else ("--track", track)),
        "--suite",
        entry.suite,
        "--seeds",
        str(entry.seeds),
        *(() if entry.name is None else ("--name", f"'{entry.name}'")),
    )
    return " ".join(words)

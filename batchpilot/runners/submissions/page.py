"""The page of all records: who is best under each id, how sure that is, and where. Plain Markdown, no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from batchpilot.envs.registration import env_id
from batchpilot.runners.submissions.record import Figure, Record, ScenarioScores, read_record

_HEAD = """# Leaderboard

Who sets an LLM server's batching limits best, on devices and seeds that no training may use. Written by
`batchpilot standings` from the records beside it; each record is one `batchpilot submit` and can be computed again.

    batchpilot submit my-policy.onnx --name "My policy" --out leaderboard/records/my-policy.json
    batchpilot standings leaderboard/records --out leaderboard/README.md

**Score**: goodput share (output tokens within SLO over those offered) as 0 for what servers ship and 1 for the best
fixed setting of the track for the very run, known only afterwards; limits that move can pass 1. Interquartile mean over
the runs in which the two differ by at least 0.01, with the 95 % interval of a bootstrap over seeds: it speaks of luck
with requests, not of other scenarios. **Worst**: the scenario in which a strategy comes least near that setting. More
in [the environment](../docs/environment.md).
"""

_ABSENT = "-"


def read_records(folder: Path) -> list[Record]:
    """Every record of a folder, in order of file name.

    Args:
        folder: of JSON files.

    Raises:
        ValueError: a file is no record, two are of one name and test set, or there is none.
        OSError: a file cannot be read.
    """
    records = [read_record(path) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise ValueError(f"{folder} holds no record; `batchpilot submit` writes one")
    seen: set[tuple[str, str]] = set()
    for one in records:
        if (one.test_set, one.name) in seen:
            raise ValueError(f"two records in {folder} are called {one.name!r} under {one.id}; name one of them anew")
        seen.add((one.test_set, one.name))
    return records


def standings(records: Sequence[Record]) -> str:
    """The page.

    Args:
        records: what it ranks; only those of one test set are compared.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for one in sorted(records, key=lambda one: (is_earlier(one), one.id, one.test_set)):
        groups.setdefault((one.id, one.test_set), []).append(one)
    return "\n".join([_HEAD, *(_section(of_one) for of_one in groups.values())])


def is_earlier(record: Record) -> bool:
    """Whether a record was judged on scenarios that have changed since.

    Args:
        record: any.
    """
    return record.id != env_id(record.track, record.suite)


def _section(records: Sequence[Record]) -> str:
    ranked = sorted(records, key=_rank)
    first = ranked[0]
    room = first.figures.normalised.runs
    told = (
        f"{len(first.scenarios)} scenarios, seeds {first.seeds[0]} to {first.seeds[-1]}: {_runs(first)} runs, {room} "
        f"of them with room; test set `{first.test_set}`."
    )
    if is_earlier(first):
        now = env_id(first.track, first.suite)
        told += f" The scenarios have changed since: it is `{now}` now, and the two are not comparable."
    return "\n".join([f"## `{first.id}`\n", f"{told}\n", _ranking(ranked), "", _by_scenario(ranked), ""])


def _runs(record: Record) -> int:
    return len(record.scenarios) * len(record.seeds)


def _rank(record: Record) -> tuple[float, float, str]:
    value = record.figures.normalised.value
    return (-(value if value is not None else -math.inf), -record.figures.mean_goodput, record.name)


def _ranking(records: Sequence[Record]) -> str:
    rows = []
    for place, one in enumerate(records, 1):
        figures = one.figures
        near = _number(figures.worst_of_hindsight)
        file = _ABSENT if one.sha256 is None else f"`{one.sha256[:12]}`"
        rows.append(
            (
                str(place),
                _text(one.name),
                _interval(figures.normalised),
                _interval(figures.goodput),
                _number(figures.mean_goodput),
                f"{near} {figures.worst_scenario}",
                file,
                f"`{one.git_revision}`",
            )
        )
    header = ("", "Strategy", "Score", "Goodput share", "mean", "Worst, of hindsight", "Policy", "Judged by")
    best = (_ABSENT, "*static-best, in hindsight*", "1", _ABSENT, _number(_mean_hindsight(records[0])), "1", "", "")
    return _table(header, [*rows, best])


def _mean_hindsight(record: Record) -> float:
    return float(np.mean([one.hindsight for one in record.scenarios.values()]))


def _by_scenario(records: Sequence[Record]) -> str:
    """Normalised score of each strategy in each scenario: ratio of the mean gain to the mean room."""
    first = records[0]
    header = ("Score by scenario", "default", "hindsight", *(_text(one.name) for one in records))
    rows = []
    for name, of_first in first.scenarios.items():
        scores = [_scenario_score(one.scenarios[name]) for one in records]
        best = max((score for score in scores if score is not None), default=None)
        cells = [f"**{_number(score)}**" if score is not None and score == best else _number(score) for score in scores]
        rows.append((name, _number(_mean(of_first.default)), _number(_mean(of_first.hindsight)), *cells))
    return _table(header, rows)


def _scenario_score(scores: ScenarioScores) -> float | None:
    finite = [score for score in scores.normalised if math.isfinite(score)]
    return _mean(finite) if finite else None


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return _number(figure.value)
    return f"{_number(figure.value)} [{_number(figure.low)}, {_number(figure.high)}]"


def _number(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.3f}"


def _text(name: str) -> str:
    """A name that cannot break out of its cell, or become markup."""
    escapes: Mapping[str, str] = {"|": "\\|", "<": "&lt;", "[": "\\[", "`": "'", "*": "\\*", "\n": " "}
    return "".join(escapes.get(letter, letter) for letter in name)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

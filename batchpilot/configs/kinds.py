"""What a file of ours is, told by its keys, so that one given to the wrong option is answered with the right one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Data = Mapping[Any, Any]

_VLLM = ("max-num-seqs", "max-num-batched-tokens", "max_num_seqs", "max_num_batched_tokens")


@dataclass(frozen=True, slots=True)
class FileKind:
    """One kind of file.

    Attributes:
        what: what such a file holds.
        reader: which command or option reads it.
        fits: whether a file's data are of this kind.
    """

    what: str
    reader: str
    fits: Callable[[Data], bool]


def _within(data: Data, key: str) -> Data:
    found = data.get(key)
    return found if isinstance(found, Mapping) else {}


def _has_rows(data: Data, column: str) -> bool:
    rows = data.get("rows")
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], Mapping) and column in rows[0]


KINDS: dict[str, FileKind] = {
    "tuner": FileKind("a tuner configuration", "--config", lambda data: "dynamic_batch_tuner" in data),
    "scenario": FileKind("a scenario", "--scenario", lambda data: "workload" in data),
    "latency": FileKind(
        "the step latency that `batchpilot calibrate --out` writes",
        "--parameters",
        lambda data: "p_max" in data or "p_max" in _within(data, "parameters"),
    ),
    "limits": FileKind(
        "the limits that `batchpilot tune` found", "--limits", lambda data: "batch_size" in _within(data, "limits")
    ),
    "vllm": FileKind("options of vLLM", "`vllm serve --config`", lambda data: any(key in data for key in _VLLM)),
    "training": FileKind(
        "a training file",
        "`batchpilot train --config`",
        lambda data: any(str(key).startswith("batchpilot/") for key in data),
    ),
    "latencies": FileKind(
        "a registry of step latencies", "`LatencyRegistry.load`", lambda data: isinstance(data.get("entries"), list)
    ),
    "compare": FileKind(
        "a baseline of `batchpilot compare`",
        "`batchpilot compare --baseline`",
        lambda data: _has_rows(data, "ratio_to_static_8"),
    ),
    "leaderboard": FileKind(
        "a baseline of `batchpilot leaderboard`",
        "`batchpilot leaderboard --baseline`",
        lambda data: _has_rows(data, "utilisation"),
    ),
}
"""Every kind, the most telling keys first."""


def kind_of(data: object) -> str | None:
    """The kind of a file.

    Args:
        data: what it holds.

    Returns:
        A key of `KINDS`, None for none of them.
    """
    if not isinstance(data, Mapping):
        return None
    return next((name for name, kind in KINDS.items() if kind.fits(data)), None)


def wrong_kind(path: str | Path, data: object, wanted: str) -> str:
    """What to say of a file that is of another kind than was asked for.

    Args:
        path: the file as it was named.
        data: what it holds.
        wanted: a key of `KINDS`.

    Returns:
        One sentence; empty where the file is of the wanted kind, or of none that we know.
    """
    found = kind_of(data)
    if found in (None, wanted):
        return ""
    return f"{path} holds {KINDS[found].what}, which {KINDS[found].reader} reads; {KINDS[wanted].what} was wanted"

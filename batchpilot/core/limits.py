"""The limits a tuner sets on a server's scheduler, and the tracks in which tuners compete."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from operator import attrgetter
from typing import Any

from batchpilot.core.names import lookup

DISCIPLINES: dict[str, int] = {"fcfs": 0, "sjf": 1, "spf": 2, "slo": 3, "fair": 4, "priority": 5}
"""Who is next: first come; shortest estimated output; shortest prompt; least slack; fair share; priority."""

DISCIPLINE_WORDS = {
    "fcfs": "first come first served",
    "sjf": "shortest output first",
    "spf": "shortest prompt first",
    "slo": "least slack first",
    "fair": "fair share",
    "priority": "priority",
}
"""What tables call them."""

TRACKS: dict[str, tuple[str, ...]] = {
    "batch": ("batch_size",),
    "limits": ("batch_size", "token_budget", "max_queued_tokens"),
    "guarded": (
        "batch_size",
        "token_budget",
        "max_queued_tokens",
        "step_target_ms",
        "ttft_guard",
        "discipline",
    ),
}
"""The fields that a tuner may move in each track; the others stay at the track's base limits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tuner sets; every field but the first is optional and `None` means off.

    Attributes:
        batch_size: most requests in one step, >= 1 (`max_num_seqs`, `max_num_active_reqs` elsewhere).
        token_budget: most tokens computed in one step, >= 1 (`max_num_batched_tokens` elsewhere).
        max_queued_tokens: a request is refused on arrival unless the prompts of those without a first token, its own
            left out, have fewer tokens than this, >= 0 (vLLM's `max_num_queued_tokens`); 0 refuses everybody.
        max_wait_ms: longest accumulation before a static batch starts, >= 0; continuous batching never waits.
        step_target_ms: fill each step only as far as the latency estimate says fits in this time, > 0.
        ttft_guard: refuse a waiting request as soon as its wait plus predicted prefill time exceeds this multiple of
            its TTFT target, > 0, or will before it could be looked at again.
        discipline: who is next, one of `DISCIPLINES`; None keeps the scheduler's own (FCFS unless configured).

    Raises:
        ValueError: a field is outside its bound; the message names the field, the value and the bound.
    """

    batch_size: int
    token_budget: int | None = None
    max_queued_tokens: int | None = None
    max_wait_ms: float | None = None
    step_target_ms: float | None = None
    ttft_guard: float | None = None
    discipline: str | None = None

    def __post_init__(self) -> None:
        batch_size, token_budget, queued = self.batch_size, self.token_budget, self.max_queued_tokens
        if type(batch_size) is not int or batch_size < 1:
            object.__setattr__(self, "batch_size", _whole("batch_size", batch_size, 1))
        if token_budget is not None and (type(token_budget) is not int or token_budget < 1):
            object.__setattr__(self, "token_budget", _whole("token_budget", token_budget, 1))
        if queued is not None and (type(queued) is not int or queued < 0):
            object.__setattr__(self, "max_queued_tokens", _whole("max_queued_tokens", queued, 0))
        if self.max_wait_ms is not None and not (math.isfinite(self.max_wait_ms) and self.max_wait_ms >= 0):
            raise ValueError(f"max_wait_ms is {self.max_wait_ms}; it must be >= 0 ms, or None for no waiting")
        for name, value in (("step_target_ms", self.step_target_ms), ("ttft_guard", self.ttft_guard)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; it must be > 0, or None to switch it off")
        if self.discipline is not None:
            lookup(DISCIPLINES, self.discipline, "discipline")

    def replace(self, **changes: Any) -> Limits:
        """A copy with some fields changed.

        Args:
            **changes: new values by field name.

        Raises:
            ValueError: a new value is outside its bound.
            TypeError: a name is not a field.
        """
        return Limits(**(dict(zip(_NAMES, _values(self), strict=True)) | changes))

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, for JSON and YAML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Limits:
        """Limits from plain data.

        Args:
            data: values by field name; missing optional fields are off.

        Raises:
            ValueError: an unknown field (the closest known one is named) or a value outside its bound.
        """
        known = {field.name: None for field in fields(cls)}
        for name in data:
            lookup(known, name, "limit")
        if "batch_size" not in data:
            raise ValueError("limits need a batch_size; the other fields are optional")
        return cls(**data)

    def __str__(self) -> str:
        parts = [f"{field.name}={getattr(self, field.name)}" for field in fields(self)]
        return ", ".join(part for part in parts if not part.endswith("=None"))


_NAMES = tuple(field.name for field in fields(Limits))
_values = attrgetter(*_NAMES)


def _whole(name: str, value: object, lowest: int) -> int:
    """The value as a plain int; numpy integers become one."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < lowest:
        raise ValueError(f"{name} is {value!r}; it must be a whole number >= {lowest}")
    return int(value)

"""The limits a tuner sets on a server's scheduler, and the tracks in which tuners compete."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral
from operator import attrgetter
from typing import Any

from batchpilot.core.names import lookup

DISCIPLINES: dict[str, int] = {
    "fcfs": 0,
    "sjf": 1,
    "spf": 2,
    "slo": 3,
    "fair": 4,
    "priority": 5,
    "deadline": 6,
    "vision": 7,
    "value": 8,
}
"""Who is next: first come; shortest estimated output; shortest prompt; least slack; fair share; priority; deadline and
work; queues by priority and image size; most estimated output for its prompt."""

DEADLINE_MS_PER_TOKEN = 8.0
"""By how much each uncached prompt token puts a request off under `deadline`: between earliest deadline first (0) and
shortest prompt first."""

VISION_DEADLINES_MS = (100.0, 500.0, 2000.0)
"""TTFT that the vision document promises to high, normal and low priority; queues under `vision` weigh 1 / deadline."""

URGENT_WAIT_MS = 80.0
"""A high-priority request that has waited so long goes before anything else under `vision`."""

DISCIPLINE_WORDS = {
    "fcfs": "first come first served",
    "sjf": "shortest output first",
    "spf": "shortest prompt first",
    "slo": "least slack first",
    "fair": "fair share",
    "priority": "priority",
    "deadline": "deadline and work",
    "vision": "priority and image size",
    "value": "value over cost",
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
            its TTFT target, > 0, or will before it could be looked at again. Under the discipline `deadline` it is
            relegated instead: it waits until nobody else does.
        discipline: who is next, one of `DISCIPLINES`; None keeps the scheduler's own (FCFS unless configured).
        delay_factor: continuous batching: after a step with a prompt, nobody new is let in beside others for this
            multiple of its time, >= 0.
        max_padding_tokens: static batching: most tokens by which a batch's prompts are padded, >= 0.
        max_padding_share: static batching: prompts are padded to a multiple of 8, and a batch of which padding is more
            than this share is split in two by length, >= 0.
        speculative_tokens: continuous batching: most tokens drafted for each decoding request in a step, which verifies
            them, >= 0 (`num_speculative_tokens` elsewhere); 0 for no speculation.
        refusal_bound: largest share by which the refusals of any quarter of prompt lengths may exceed those of all,
            0-1. A request that arrives while its quarter's do goes before all whose quarters do not. Not under the
            disciplines `priority`, `deadline` and `vision`.

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
    delay_factor: float | None = None
    max_padding_tokens: int | None = None
    max_padding_share: float | None = None
    speculative_tokens: int = 0
    refusal_bound: float | None = None

    def __post_init__(self) -> None:
        batch_size, token_budget, queued = self.batch_size, self.token_budget, self.max_queued_tokens
        padding = self.max_padding_tokens
        if type(batch_size) is not int or batch_size < 1:
            object.__setattr__(self, "batch_size", _whole("batch_size", batch_size, 1))
        if token_budget is not None and (type(token_budget) is not int or token_budget < 1):
            object.__setattr__(self, "token_budget", _whole("token_budget", token_budget, 1))
        if queued is not None and (type(queued) is not int or queued < 0):
            object.__setattr__(self, "max_queued_tokens", _whole("max_queued_tokens", queued, 0))
        if padding is not None and (type(padding) is not int or padding < 0):
            object.__setattr__(self, "max_padding_tokens", _whole("max_padding_tokens", padding, 0))
        if type(self.speculative_tokens) is not int or self.speculative_tokens < 0:
            drafted = 0 if self.speculative_tokens is None else self.speculative_tokens
            object.__setattr__(self, "speculative_tokens", _whole("speculative_tokens", drafted, 0))
        if self.max_wait_ms is not None and not (math.isfinite(self.max_wait_ms) and self.max_wait_ms >= 0):
            raise ValueError(f"max_wait_ms is {self.max_wait_ms}; it must be >= 0 ms, or None for no waiting")
        for name, value in (("step_target_ms", self.step_target_ms), ("ttft_guard", self.ttft_guard)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; it must be > 0, or None to switch it off")
        for name, value in (("delay_factor", self.delay_factor), ("max_padding_share", self.max_padding_share)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; it must be >= 0, or None to switch it off")
        bound = self.refusal_bound
        if bound is not None and not 0.0 <= bound <= 1.0:
            raise ValueError(f"refusal_bound is {bound}; it must be a share of 0 to 1, or None to switch it off")
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
        return Limits(**(self.to_dict() | changes))

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, for JSON and YAML."""
        return dict(zip(_NAMES, _values(self), strict=True))

    def in_force(self) -> dict[str, Any]:
        """The fields that are not off, by name."""
        return {name: value for name, value in self.to_dict().items() if value is not None and value != _OFF.get(name)}

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
        return ", ".join(f"{name}={value}" for name, value in self.in_force().items())


_OFF = {"speculative_tokens": 0}
"""What stands for off where it is not None."""

_NAMES = tuple(field.name for field in fields(Limits))
_values = attrgetter(*_NAMES)


def _whole(name: str, value: object, lowest: int) -> int:
    """The value as a plain int; numpy integers become one."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < lowest:
        raise ValueError(f"{name} is {value!r}; it must be a whole number >= {lowest}")
    return int(value)

"""The grid of each tunable limit: the values a policy can choose, geometric since limits matter by their factor."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

from batchpilot.core.limits import DISCIPLINES

NOTCHES_PER_DOUBLING = 4

CHOSEN_BY_POLICIES = ("fcfs", "sjf", "spf", "slo", "fair", "priority")
"""What the actions of policies mean must not change with a further discipline."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The notches of one limit.

    Attributes:
        field: its name in `Limits`.
        values: one a notch, >= 0 where they are ordered, ascending; infinity is off; codes for the discipline.
        ordered: whether neighbouring notches are alike, so that moving by notches makes sense.
        times_tpot_target: whether the values are multiples of the TPOT target rather than the limit itself.

    Raises:
        ValueError: no notch, or values that do not ascend.
    """

    field: str
    values: tuple[float, ...]
    ordered: bool = True
    times_tpot_target: bool = False

    def __post_init__(self) -> None:
        if not self.values or list(self.values) != sorted(set(self.values)):
            raise ValueError(f"the grid of {self.field} must ascend, one value a notch: {self.values}")

    def nearest(self, value: float) -> int:
        """The notch closest to a value by its factor; off goes to the last notch.

        Args:
            value: on the grid's own scale, infinity for off.
        """
        if not self.ordered:
            return self.values.index(value) if value in self.values else 0
        if math.isinf(value):
            return len(self.values) - 1
        if value <= 0:
            return 0
        above = bisect_left(self.values, value)
        neighbours = (notch for notch in (above - 1, above) if 0 <= notch < len(self.values) and self.values[notch] > 0)
        return min(neighbours, key=lambda notch: abs(math.log(self.values[notch] / value)))


def _geometric(lowest: float, highest: float, *, whole: bool, off: bool) -> tuple[float, ...]:
    """Notches from lowest to highest, as whole numbers where asked, then off where asked."""
    steps = round(math.log2(highest / lowest) * NOTCHES_PER_DOUBLING)
    values = [lowest * 2.0 ** (step / NOTCHES_PER_DOUBLING) for step in range(steps + 1)]
    if whole:
        values = [float(value) for value in sorted({round(value) for value in values})]
    return tuple(values) + ((math.inf,) if off else ())


GRIDS: dict[str, Grid] = {
    "batch_size": Grid("batch_size", _geometric(1, 1024, whole=True, off=False)),
    "token_budget": Grid("token_budget", _geometric(64, 16384, whole=True, off=False)),
    "max_queued_tokens": Grid("max_queued_tokens", _geometric(256, 2**20, whole=True, off=True)),
    "step_target_ms": Grid("step_target_ms", _geometric(0.25, 4, whole=False, off=True), times_tpot_target=True),
    "ttft_guard": Grid("ttft_guard", _geometric(0.25, 4, whole=False, off=True)),
    "speculative_tokens": Grid("speculative_tokens", tuple(float(tokens) for tokens in range(9))),
    "refusal_bound": Grid("refusal_bound", _geometric(0.02, 0.64, whole=False, off=True)),
    "discipline": Grid("discipline", tuple(float(DISCIPLINES[name]) for name in CHOSEN_BY_POLICIES), ordered=False),
}
"""The grid of each limit that a policy can move."""

"""The rules of `rules.py`, compiled: the same functions with one another's compiled forms in reach."""

from __future__ import annotations

from types import FunctionType

from batchpilot.fleet import rules
from batchpilot.latency.model.compiled import kernel

__all__ = ["choose", "may_take", "predicted_ttft_ms"]

_IN_ORDER = (
    rules.may_take,
    rules.predicted_ttft_ms,
    rules.prefill_ms,
    rules.cost_of,
    rules.cheapest,
    rules.next_in_turn,
    rules.weighted_turn,
    rules.drawn,
    rules.choose,
)
"""Each calls earlier ones only."""

_reach = dict(vars(rules))
for _rule in _IN_ORDER:
    _reach[_rule.__name__] = kernel(FunctionType(_rule.__code__, _reach, _rule.__name__, _rule.__defaults__))

choose = _reach["choose"]
may_take = _reach["may_take"]
predicted_ttft_ms = _reach["predicted_ttft_ms"]

"""The update rules by name."""

from __future__ import annotations

from collections.abc import Callable

from batchpilot.core.names import lookup
from batchpilot.latency.online.momentum import Momentum
from batchpilot.latency.online.refits import exponential_refit, sliding_refit
from batchpilot.latency.online.rules import UpdateRule

UPDATE_RULES: dict[str, Callable[[], UpdateRule]] = {
    "sliding": sliding_refit,
    "exponential": exponential_refit,
    "momentum": Momentum,
}


def make_update_rule(name: str) -> UpdateRule:
    """A fresh update rule with the documented settings.

    Args:
        name: one of `UPDATE_RULES`.

    Raises:
        ValueError: no such rule; the message names the closest.
    """
    return lookup(UPDATE_RULES, name, "update rule")()

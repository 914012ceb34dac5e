"""One attempt to improve the parameters: a candidate learns from the older observations and is judged on the newest."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from batchpilot.latency.fitting.residuals import NAMES
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.online.feasible import check_feasible
from batchpilot.latency.online.history import History
from batchpilot.latency.online.relative_loss import signed_errors
from batchpilot.latency.online.rules import UpdateRule
from batchpilot.latency.online.stages import Answers, Published

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Update:
    """What became of an attempt.

    Attributes:
        reason: what made it due: "drift", "error" or "interval".
        outcome: "accepted", "worse" (no better on held-out observations) or "failed" (no usable candidate).
        observation: number of the first observation that came after it.
        error_before: mean |log(predicted / measured)| on the held-out observations, with the old parameters.
        error_after: the same with the candidate; NaN when there is none.
    """

    reason: str
    outcome: str
    observation: int
    error_before: float
    error_after: float


def attempt(
    rule: UpdateRule, answers: Answers, history: History, since: int, held_out: int, reason: str
) -> tuple[Update, Published | None]:
    """Let a rule propose parameters and judge them; nothing is replaced here.

    Args:
        rule: proposes; its memory may change.
        answers: the parameters in force and the base.
        history: everything kept.
        since: number of the first observation that may be learnt from; more than `held_out` follow.
        held_out: how many of the newest the rule does not see, >= 1.
        reason: why, for the log.

    Returns:
        What became of it, and the parameters to publish if they are better than those in force.
    """
    judging = history.newest(held_out)
    current = answers.adapted
    before = _mean_error(current, judging)
    try:
        values = rule.propose(current.values, answers.base.values, history.until(judging.first), since)
        parameters = SaturationParameters(**dict(zip(NAMES, values.tolist(), strict=True)))
        check_feasible(parameters)
    except (ArithmeticError, ValueError) as error:
        _log.warning("update of the latency parameters (%s) failed: %s", reason, error)
        return Update(reason, "failed", history.end, before, np.nan), None
    candidate = Published.of(parameters, current.version + 1)
    after = _mean_error(candidate, judging)
    better = after < before
    outcome = "accepted" if better else "worse"
    _log.info("update of the latency parameters (%s) %s: error %.4f to %.4f", reason, outcome, before, after)
    return Update(reason, outcome, history.end, before, after), candidate if better else None


def _mean_error(published: Published, history: History) -> float:
    """Mean |log(predicted / measured)|: a glitch sways the judgement by no more than two predictions of it differ."""
    return float(np.mean(np.abs(signed_errors(published.values, history.rows))))

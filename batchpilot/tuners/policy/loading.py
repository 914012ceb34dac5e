"""`load_policy`: one file in, a tuner out, safety rails on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from batchpilot.core import SLO, Tuner
from batchpilot.tuners.policy.file import PolicyFile, read_policy
from batchpilot.tuners.policy.observation import Observation
from batchpilot.tuners.policy.tuner import PolicyTuner
from batchpilot.tuners.rails import Bounds, CollapseGuard, Idle, KVMemory, OutOfMemory, Rail, RailedTuner, TrainedRange
from batchpilot.tuners.rails.out_of_memory import MAX_CONSECUTIVE_FAILURES


def load_policy(
    path: str | Path,
    *,
    rails: bool = True,
    bounds: Bounds | None = None,
    slo: SLO | None = None,
    max_consecutive_failures: int = MAX_CONSECUTIVE_FAILURES,
) -> Tuner:
    """A tuner from a policy file, ready to be asked and told.

    Args:
        path: what `batchpilot export` wrote.
        rails: whether safety rails stand around it. They are off only where it is judged by itself.
        bounds: what the operator allows; None for no bounds but the policy's own grids.
        slo: the promise, until windows tell their own.
        max_consecutive_failures: windows in a row with a failed step that lead to the safe state, >= 1.

    Returns:
        The policy's tuner; between rails unless they are off.

    Raises:
        ValueError: the file is no policy, damaged, or made for other features; or bounds are given without rails.
        OSError: the file cannot be read.
    """
    return policy_tuner(
        read_policy(path), rails=rails, bounds=bounds, slo=slo, max_consecutive_failures=max_consecutive_failures
    )


def policy_tuner(
    policy: PolicyFile,
    *,
    rails: bool = True,
    bounds: Bounds | None = None,
    slo: SLO | None = None,
    max_consecutive_failures: int = MAX_CONSECUTIVE_FAILURES,
) -> Tuner:
    """A tuner from a policy that was read already.

    Args:
        policy: what `read_policy` gave.
        rails: as `load_policy`.
        bounds: as `load_policy`.
        slo: as `load_policy`.
        max_consecutive_failures: as `load_policy`.

    Raises:
        ValueError: bounds are given without rails.
    """
    if bounds is not None and not rails:
        raise ValueError("bounds are given, but rails are off; nothing would hold the policy within them")
    observation = Observation(policy.description.stack, len(policy.description.feature_names))
    tuner = PolicyTuner(policy, slo=slo, observation=observation)
    if not rails:
        return tuner
    return RailedTuner(tuner, _rails(policy, tuner, observation, bounds, max_consecutive_failures))


def _rails(
    policy: PolicyFile, tuner: PolicyTuner, observation: Observation, bounds: Bounds | None, most_failures: int
) -> Sequence[Rail]:
    """From what may be mistaken to what must never happen: the last one has the last word."""
    start, described = tuner.ask(), policy.description
    return (
        TrainedRange(described.observation_low, described.observation_high, observation, start),
        Idle(start),
        CollapseGuard(start),
        bounds or Bounds(),
        KVMemory(),
        OutOfMemory(most_failures),
    )

"""Baselines by name: fixed limits, AIMD, the guarded default and the field's controllers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from batchpilot.baselines.controllers.aimd import AIMDTuner
from batchpilot.baselines.controllers.by_name import CONTROLLERS
from batchpilot.baselines.dispatch.accumulating import accumulating
from batchpilot.baselines.document_limits import adaptive_padding, delay_factor, dynamic_batcher, padding_bound
from batchpilot.baselines.guarded import GuardedTuner
from batchpilot.baselines.setting import Setting
from batchpilot.baselines.static import SERVER_DEFAULT, StaticTuner
from batchpilot.core import Tuner


def static(setting: Setting) -> Tuner:
    """The configured `fixed_batch_size`; with 0, the server's own heuristic: the base limits as they are.

    Args:
        setting: what the tuner is built for.
    """
    fixed = setting.config.fixed_batch_size
    return StaticTuner(setting.limits(fixed) if fixed else setting.base or SERVER_DEFAULT)


def static_size(batch_size: int, setting: Setting) -> Tuner:
    """One fixed size.

    Args:
        batch_size: most requests in a step.
        setting: what the tuner is built for.
    """
    return StaticTuner(setting.limits(batch_size), f"static-{batch_size}")


def static_default(setting: Setting) -> Tuner:
    """What servers ship, whatever the base.

    Args:
        setting: what the tuner is built for.
    """
    return StaticTuner(SERVER_DEFAULT, "static-default")


def static_accumulate(setting: Setting) -> Tuner:
    """The constant that the source documents set out to replace.

    Args:
        setting: what the tuner is built for.
    """
    return accumulating(setting.base)


def aimd(setting: Setting, multiplicative: bool = False, target_ms: float | None = None) -> Tuner:
    """AIMD within the configured bounds, from the initial size.

    Args:
        setting: what the tuner is built for.
        multiplicative: whether to follow Clipper's rule.
        target_ms: the step time aimed at; None takes the TPOT target.
    """
    config = setting.config
    return AIMDTuner(
        setting.limits(config.initial_batch_size),
        target_ms=target_ms,
        slo=setting.slo,
        min_batch_size=config.min_batch_size,
        max_batch_size=config.max_batch_size,
        multiplicative=multiplicative,
    )


def guarded_default(setting: Setting) -> Tuner:
    """The inner loop set to the SLO, on what servers ship.

    Args:
        setting: what the tuner is built for.
    """
    return GuardedTuner(setting.slo)


def niyama(setting: Setting) -> Tuner:
    """Niyama's (QoServe's) order: deadline and work, steps filled to the TPOT target, who comes too late relegated.

    Niyama cuts chunks by the slack of each request that decodes; here all share the promise's step target.

    Args:
        setting: what the tuner is built for.

    Source: Goel et al., "Niyama: Breaking the Silos of LLM Inference Serving" (arXiv 2503.22562).
    """
    return GuardedTuner(setting.slo, discipline="deadline", name="niyama")


BASELINES: dict[str, Callable[..., Tuner]] = {
    "static": static,
    "static-8": partial(static_size, 8),
    "static-16": partial(static_size, 16),
    "static-32": partial(static_size, 32),
    "static-64": partial(static_size, 64),
    "static-default": static_default,
    "static-accumulate": static_accumulate,
    "aimd": aimd,
    "aimd-clipper": partial(aimd, multiplicative=True),
    "guarded-default": guarded_default,
    "niyama": niyama,
    "dynamic-batcher": dynamic_batcher,
    "adaptive-padding": adaptive_padding,
    "padding-bound": padding_bound,
    "delay-factor": delay_factor,
    **CONTROLLERS,
}
"""What builds each baseline from a `Setting` and its own options."""

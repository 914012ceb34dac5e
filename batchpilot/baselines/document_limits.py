"""Limits that the documents name with their numbers, each as a strategy: paddings and the delay factor."""

from __future__ import annotations

from batchpilot.baselines.setting import Setting
from batchpilot.baselines.static import SERVER_DEFAULT, StaticTuner
from batchpilot.core import Limits, Tuner

DYNAMIC_BATCHER = Limits(batch_size=32, token_budget=2048, max_wait_ms=100.0)
"""The document's dynamic batcher: limits on count, wait and input tokens (SPEC 2); its count is ours."""

MAX_PADDING_SHARE = 0.3
MAX_PADDING_TOKENS = 512
DELAY_FACTOR = 0.1


def dynamic_batcher(setting: Setting) -> Tuner:
    """Static batches as the document's dynamic batcher forms them.

    Args:
        setting: what the tuner is built for.
    """
    return StaticTuner(_batching(setting), "dynamic-batcher")


def adaptive_padding(setting: Setting) -> Tuner:
    """The dynamic batcher with adaptive padding: to a multiple of 8, batches with more than 30 % of it split by length.

    Args:
        setting: what the tuner is built for.
    """
    return StaticTuner(_batching(setting).replace(max_padding_share=MAX_PADDING_SHARE), "adaptive-padding")


def padding_bound(setting: Setting) -> Tuner:
    """The dynamic batcher with at most 512 tokens of padding a batch.

    Args:
        setting: what the tuner is built for.
    """
    return StaticTuner(_batching(setting).replace(max_padding_tokens=MAX_PADDING_TOKENS), "padding-bound")


def delay_factor(setting: Setting) -> Tuner:
    """Continuous batching that lets nobody in for a tenth of a prompt step's time after it.

    Args:
        setting: what the tuner is built for.
    """
    return StaticTuner((setting.base or SERVER_DEFAULT).replace(delay_factor=DELAY_FACTOR), "delay-factor")


def _batching(setting: Setting) -> Limits:
    base = setting.base or DYNAMIC_BATCHER
    changes = {name: getattr(DYNAMIC_BATCHER, name) for name in ("batch_size", "token_budget", "max_wait_ms")}
    return base.replace(**changes)

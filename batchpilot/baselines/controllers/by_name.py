"""The field's controllers by name, within the configured bounds and with their sources' constants."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from batchpilot.baselines.controllers.concurrency import ConcurrencyRule, LimitAlgorithm
from batchpilot.baselines.controllers.gradient2 import MAX_LIMIT as GRADIENT2_MAX
from batchpilot.baselines.controllers.gradient2 import MIN_LIMIT as GRADIENT2_MIN
from batchpilot.baselines.controllers.gradient2 import Gradient2
from batchpilot.baselines.controllers.load_rule import LoadRule
from batchpilot.baselines.controllers.memory_aware import MemoryAwareRule
from batchpilot.baselines.controllers.memory_guard import MemoryGuardRule
from batchpilot.baselines.controllers.prefill_pressure import PrefillPressureRule
from batchpilot.baselines.controllers.queued_tokens import QueuedTokensRule
from batchpilot.baselines.controllers.quick import QuickRule
from batchpilot.baselines.controllers.vegas import MAX_LIMIT as VEGAS_MAX
from batchpilot.baselines.controllers.vegas import Vegas
from batchpilot.baselines.dispatch.cork import MAX_BATCH_SIZE as CORK_BATCH_SIZE
from batchpilot.baselines.dispatch.cork import CorkRule, first_service_times
from batchpilot.baselines.dispatch.optimal_dispatch import MAX_BATCH_SIZE as OPTIMAL_BATCH_SIZE
from batchpilot.baselines.dispatch.optimal_dispatch import OptimalDispatchRule
from batchpilot.baselines.dispatch.predictive import PredictiveRule
from batchpilot.baselines.dispatch.service_times import ServiceTimes
from batchpilot.baselines.document_limits import DYNAMIC_BATCHER
from batchpilot.baselines.rule import Rule, RuleTuner
from batchpilot.baselines.setting import Setting
from batchpilot.baselines.static import SERVER_DEFAULT
from batchpilot.core import Limits, Tuner


def gradient2(setting: Setting, refuse: bool = False) -> Tuner:
    """Netflix Gradient2.

    Args:
        setting: what the tuner is built for.
        refuse: whether the queue is bounded to 4 requests, as in the library.
    """
    low, high = _bounds(setting, GRADIENT2_MIN, GRADIENT2_MAX)
    return _concurrency("gradient2", setting, lambda _: Gradient2(low, high), refuse)


def vegas(setting: Setting, refuse: bool = False) -> Tuner:
    """Netflix Vegas.

    Args:
        setting: what the tuner is built for.
        refuse: whether the queue is bounded to 4 requests.
    """
    low, high = _bounds(setting, 1, VEGAS_MAX)
    return _concurrency("vegas", setting, lambda seed: Vegas(low, high, seed), refuse)


def cork(setting: Setting, shed: bool = False) -> Tuner:
    """BentoML's adaptive batching.

    Args:
        setting: what the tuner is built for.
        shed: whether requests are refused as BentoML sheds them.
    """
    low, high = _bounds(setting, 1, CORK_BATCH_SIZE)
    objective = setting.slo.ttft_ms if setting.slo else None

    def make_rule(seed: int) -> Rule:
        return CorkRule(_base(setting), low, high, first_service_times(objective), shed, objective)

    return RuleTuner("cork-shed" if shed else "cork", make_rule)


def memory_aware(setting: Setting) -> Tuner:
    """Memory-aware and SLA-constrained dynamic batching.

    Args:
        setting: what the tuner is built for.
    """
    low, high = setting.config.min_batch_size, setting.config.max_batch_size
    target = setting.slo.tpot_ms if setting.slo else None
    return RuleTuner("memory-aware", lambda seed: MemoryAwareRule(_base(setting), low, high, target))


def queue_tokens(setting: Setting, online: bool = False) -> Tuner:
    """The advice of vLLM on `max_num_queued_tokens`, with the prefill throughput measured.

    Args:
        setting: what the tuner is built for.
        online: whether it is measured on after the calibration.
    """
    name = "queue-tokens-online" if online else "queue-tokens"
    target = setting.slo.ttft_ms if setting.slo else None
    return RuleTuner(name, lambda seed: QueuedTokensRule(_base(setting), online, target))


def quick(setting: Setting) -> Tuner:
    """Triton's quick search from the power of two nearest below the initial size.

    Args:
        setting: what the tuner is built for.
    """
    low, high = setting.config.min_batch_size, setting.config.max_batch_size
    power = 1 << (setting.config.initial_batch_size.bit_length() - 1)
    return RuleTuner("quick", lambda seed: QuickRule(_base(setting), low, high, max(low, power)))


def smdp(setting: Setting) -> Tuner:
    """The optimum of the batch-service queue, solved online.

    Args:
        setting: what the tuner is built for.
    """
    low, high = _bounds(setting, 1, OPTIMAL_BATCH_SIZE)
    return RuleTuner(
        "smdp", lambda seed: OptimalDispatchRule(_base(setting), low, high, ServiceTimes(0.0, 0.0, warm_up=[]))
    )


def predictive_wait(setting: Setting) -> Tuner:
    """Wait where who is expected within 100 ms makes the batch more efficient by a fifth.

    Args:
        setting: what the tuner is built for.
    """
    low, high = _bounds(setting, 1, DYNAMIC_BATCHER.batch_size)
    return RuleTuner(
        "predictive-wait", lambda seed: PredictiveRule(_base(setting), low, high, ServiceTimes(0.0, 0.0, warm_up=[]))
    )


def load_rule(setting: Setting) -> Tuner:
    """The discipline by load.

    Args:
        setting: what the tuner is built for.
    """
    target = setting.slo.ttft_ms if setting.slo else None
    return RuleTuner(
        "load-rule",
        lambda seed: LoadRule(_base(setting), QueuedTokensRule(_base(setting), online=True, ttft_ms=target)),
    )


def memory_guard(setting: Setting) -> Tuner:
    """A smaller batch above 0.85 of the device's memory.

    Args:
        setting: what the tuner is built for.
    """
    low, high = setting.config.min_batch_size, setting.config.max_batch_size
    return RuleTuner("memory-guard", lambda seed: MemoryGuardRule(_base(setting), low, high))


def prefill_pressure(setting: Setting) -> Tuner:
    """P-PAS: the token budget by the pressure of prompts.

    Args:
        setting: what the tuner is built for.
    """
    return RuleTuner("p-pas", lambda seed: PrefillPressureRule(_base(setting)))


CONTROLLERS: dict[str, Callable[..., Tuner]] = {
    "gradient2": gradient2,
    "gradient2-refuse": partial(gradient2, refuse=True),
    "vegas": vegas,
    "vegas-refuse": partial(vegas, refuse=True),
    "cork": cork,
    "cork-shed": partial(cork, shed=True),
    "memory-aware": memory_aware,
    "queue-tokens": queue_tokens,
    "queue-tokens-online": partial(queue_tokens, online=True),
    "quick": quick,
    "smdp": smdp,
    "predictive-wait": predictive_wait,
    "load-rule": load_rule,
    "memory-guard": memory_guard,
    "p-pas": prefill_pressure,
}
"""What builds each controller from a `Setting`."""


def _concurrency(name: str, setting: Setting, algorithm: Callable[[int], LimitAlgorithm], refuse: bool) -> Tuner:
    def make_rule(seed: int) -> Rule:
        return ConcurrencyRule(_base(setting), algorithm(seed), refuse)

    return RuleTuner(f"{name}-refuse" if refuse else name, make_rule, setting.seed)


def _base(setting: Setting) -> Limits:
    return setting.base or SERVER_DEFAULT


def _bounds(setting: Setting, low: int, high: int) -> tuple[int, int]:
    """A source's bounds as far as the configured ones allow."""
    smallest, largest = setting.config.min_batch_size, setting.config.max_batch_size
    return max(smallest, min(low, largest)), min(largest, max(high, smallest))

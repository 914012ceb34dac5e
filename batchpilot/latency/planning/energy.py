"""Energy of an engine: power between idle and peak by how much of the time its devices are at full tilt. Joules.

A step keeps a device at full tilt as long as its arithmetic or its reading takes at what software attains, whichever is
longer; the rest of a step (launches, messages, the host) and the time between steps draw idle power. A model: where a
device tells its own power, that reading counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec, Power
from batchpilot.latency.model.intensity import step_intensity
from batchpilot.latency.model.roofline import ATTAINABLE


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine did.

    Attributes:
        busy_ms: time within steps.
        steps: number of steps.
        tokens: computed in them.
        context_tokens: read by attention in them.
    """

    busy_ms: float = 0.0
    steps: float = 0.0
    tokens: float = 0.0
    context_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class EnergyModel:
    """What turns an engine's work into energy.

    Attributes:
        power: of one device.
        device: one of `tensor_parallel` alike.
        model: that is served.
        tensor_parallel: devices of the engine.
        dtype: of the weights, None for the published one.
    """

    power: Power
    device: DeviceSpec
    model: ModelSpec
    tensor_parallel: int = 1
    dtype: str | None = None

    def use(self, work: Work) -> float:
        """Share of the time within steps at full tilt, 0-1.

        Args:
            work: what the engine did.
        """
        if not (work.steps > 0 and work.tokens > 0 and work.busy_ms > 0):
            return 0.0
        step = step_intensity(
            self.device,
            self.model,
            work.tokens / work.steps,
            work.context_tokens / work.steps,
            work.busy_ms / work.steps,
            tensor_parallel=self.tensor_parallel,
            dtype=self.dtype,
        )
        attained = ATTAINABLE[self.device.vendor]
        compute = attained.expert_compute if self.model.experts else attained.compute
        return min(max(step.compute_utilisation / compute, step.bandwidth_utilisation / attained.bandwidth), 1.0)

    def joules(self, work: Work, seconds: float) -> float:
        """Energy of all devices of the engine.

        Args:
            work: what the engine did.
            seconds: that it existed, idle time included, >= the time within steps.
        """
        tilt_s = self.use(work) * work.busy_ms / 1000.0
        extra_w = self.power.peak_w - self.power.idle
        return self.tensor_parallel * (self.power.idle * seconds + extra_w * min(tilt_s, seconds))

"""What every tuner is built for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import SLO, Limits

if TYPE_CHECKING:
    from batchpilot.engines.memory import MemoryModel
    from batchpilot.latency.model.saturation import SaturationParameters


@dataclass(frozen=True, slots=True)
class Setting:
    """What a tuner is built for.

    Attributes:
        config: the `dynamic_batch_tuner` section.
        base: the track's base limits, whose other fields a tuner keeps; None for none.
        slo: the promise; None when only the windows know it.
        seed: seeds random draws, if the tuner makes any.
        track: the fields that a tuner which searches may move, one of `TRACKS`.
        latency: what is believed of the engine's step latency, from a calibration or the catalogue; None for nothing.
        not_held: limits that the server cannot hold, which nobody who plans should count on.
        latency_stage: how far what is learned of step latency is believed: offline, shadow, partial or full.
        memory: where the device's memory goes, from the model; None where only windows tell.
    """

    config: TunerConfig = field(default_factory=TunerConfig)
    base: Limits | None = None
    slo: SLO | None = None
    seed: int = 0
    track: str = "limits"
    latency: SaturationParameters | None = None
    not_held: tuple[str, ...] = ()
    latency_stage: str = "full"
    memory: MemoryModel | None = None

    def limits(self, batch_size: int) -> Limits:
        """The base limits with another batch size.

        Args:
            batch_size: most requests in a step.
        """
        return (self.base or Limits(batch_size=batch_size)).replace(batch_size=batch_size)

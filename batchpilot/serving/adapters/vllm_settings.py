"""What vLLM is told of the tuner: `--additional-config '{"batchpilot": {"tuner": "hybrid", "ttft_ms": 1000}}'`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from batchpilot.baselines.guarded import GuardedTuner
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import SLO, Limits, Tuner
from batchpilot.core.limits import TRACKS
from batchpilot.core.names import lookup
from batchpilot.latency.model.parameter_file import read_parameters
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.serving.recording import LARGEST_MB, StepRecorder
from batchpilot.serving.rehearsal import rehearse
from batchpilot.serving.session.engine import EngineFacts
from batchpilot.serving.session.session import TunerSession
from batchpilot.tuners import make_tuner

SECTION = "batchpilot"
"""Key in vLLM's additional configuration."""


@dataclass(frozen=True, slots=True)
class VLLMSettings:
    """Which tuner, and what it is told.

    Attributes:
        tuner: by name.
        track: which limits a tuner that searches may move.
        options: further arguments of that tuner, `{"path": "policy.onnx"}` for a policy.
        config: keys of the `dynamic_batch_tuner` section.
        parameters: step latency as calibrated, a file that `batchpilot calibrate --out` wrote or its parameters by
            name; None for what steps will show.
        window_ms: length of a measurement window, > 0.
        ttft_ms: TTFT target of a request that names no SLO class, > 0.
        tpot_ms: its TPOT target, > 0.
        background: whether the tuner thinks in a thread of its own, for one that takes milliseconds.
        record: a CSV file that steps are written to, which `batchpilot calibrate` reads; None for none.
        record_mb: of that file and the one before it together, > 0.

    Raises:
        ValueError: an unknown track, or a bound is violated.
        OSError: the file of parameters cannot be read.
    """

    tuner: str = "guarded-default"
    track: str = "guarded"
    options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    parameters: str | Mapping[str, Any] | None = None
    window_ms: float = 1000.0
    ttft_ms: float = 2000.0
    tpot_ms: float = 100.0
    background: bool = False
    record: str | None = None
    record_mb: float = LARGEST_MB

    def __post_init__(self) -> None:
        lookup(TRACKS, self.track, "track")
        _ = self.slo, self.latency

    @property
    def slo(self) -> SLO:
        """The promise to a request that names no class."""
        return SLO(self.ttft_ms, self.tpot_ms, "default")

    @property
    def latency(self) -> SaturationParameters | None:
        """What is believed of the engine's step latency, None for nothing."""
        if self.parameters is None or isinstance(self.parameters, Mapping):
            return None if self.parameters is None else SaturationParameters.from_dict(self.parameters)
        return read_parameters(self.parameters).parameters

    @classmethod
    def from_additional_config(cls, additional_config: object) -> VLLMSettings:
        """The settings in vLLM's additional configuration, defaults where it has none.

        Args:
            additional_config: as vLLM holds it.

        Raises:
            ValueError: the section is no mapping, has an unknown key (the closest known one is named) or a value out of
                bounds.
        """
        section = additional_config.get(SECTION, {}) if isinstance(additional_config, Mapping) else {}
        if not isinstance(section, Mapping):
            raise ValueError(f"{SECTION!r} in --additional-config is {section!r}; it must be a mapping of settings")
        known = {entry.name: None for entry in fields(cls)}
        for name in section:
            lookup(known, name, f"setting in --additional-config under {SECTION!r}")
        return cls(**section)

    def session(self, most_requests: int, most_tokens: int, kv_capacity_tokens: int) -> TunerSession:
        """A session whose tuner starts from, and never searches above, what the server was started with.

        Whatever the tuner compiles is compiled here, while the server starts.

        Args:
            most_requests: the server's `max_num_seqs`.
            most_tokens: its `max_num_batched_tokens`.
            kv_capacity_tokens: KV tokens that fit.

        Raises:
            ValueError: no such tuner, or its configuration or options are out of bounds.
        """
        rehearse(self._tuner(most_requests, most_tokens))
        facts = EngineFacts(kv_capacity_tokens=kv_capacity_tokens, estimate=self.known_estimate)
        tuner = self._tuner(most_requests, most_tokens)
        return TunerSession(tuner, window_ms=self.window_ms, facts=facts, background=self.background)

    def recorder(self) -> StepRecorder | None:
        """What steps are written with, writing already; None where they are not.

        Raises:
            ValueError: the size is not above 0, or the file is there and holds something else.
            OSError: it cannot be written.
        """
        if self.record is None:
            return None
        recorder = StepRecorder(self.record, largest_mb=self.record_mb)
        recorder.start()
        return recorder

    @property
    def known_estimate(self) -> tuple[float, ...] | None:
        """The same as numbers in their order."""
        latency = self.latency
        return None if latency is None else tuple(latency.as_array().tolist())

    def _tuner(self, most_requests: int, most_tokens: int) -> Tuner:
        smallest = {name: min(TunerConfig().to_dict()[name], most_requests) for name in _SIZES}
        config = TunerConfig.from_dict({**smallest, "max_batch_size": most_requests, **self.config}, warn=False)
        base = Limits(most_requests, most_tokens)
        if self.tuner == GuardedTuner.name:  # by name it guards what servers ship, here what this one was started with
            return GuardedTuner(self.slo, base=base, **self.options)
        options = _CARRIED.get(self.tuner, {}) | dict(self.options)
        return make_tuner(
            self.tuner, config, base=base, slo=self.slo, track=self.track, latency=self.latency, **options
        )


_CARRIED: dict[str, dict[str, Any]] = {
    name: {"error_margin": False}
    for name in ("guarded-adaptive", "policy-limits", "policy-guarded", "model-based", "safe-bandit")
}
"""What the adapter does by itself: steps are filled with room for the error of what was predicted of requests."""

_SIZES = ("min_batch_size", "initial_batch_size")

"""The `dynamic_batch_tuner` section: every key with its default, its allowed values and its recommended range."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from batchpilot.configs.errors import ConfigError, ConfigWarning
from batchpilot.core.names import closest

SPELLINGS = {"hybird": "hybrid"}
"""Spellings found in the source documents, and what they stand for."""

_WEIGHTS = ("throughput_weight", "gpu_utilization_weight", "memory_efficiency_weight")
_WEIGHT_SUM_TOLERANCE = 0.01 + 1e-9


@dataclass(frozen=True, slots=True)
class Recommended:
    """The range in which the documents found a key to work; outside it a warning.

    Attributes:
        low: lowest recommended value.
        high: highest recommended value.
    """

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g}-{self.high:g}"


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
ProperFraction = Annotated[float, Field(gt=0, lt=1)]


class TunerConfig(BaseModel):
    """The whole `dynamic_batch_tuner` section, checked: what cannot be meant is refused, what is unusual is warned of.

    Frozen; `updated` gives a changed copy. Construction warns with `ConfigWarning` of values outside `recommended`.

    Attributes:
        enabled: whether a tuner is attached at all.
        strategy: static (fixed size), dynamic (probe, then adjust for ever) or hybrid (probe, then lock).
        fixed_batch_size: batch size of the static strategy; 0 leaves it to the server's own heuristic.
        min_batch_size: smallest batch size the tuner may set.
        max_batch_size: largest batch size the tuner may set.
        initial_batch_size: batch size before the first measurement, within the two.
        max_probing_attempts: most sizes that the probe tries while growing.
        probing_growth_factor: factor from one probed size to the next, > 1.
        probing_timeout_ms: engine time after which a probe of one size is given up.
        performance_threshold: relative change of the score that counts as one (eps).
        growth_coefficient: relative step up.
        decay_coefficient: relative step down.
        oscillation_coefficient: relative step when neither up nor down is called for.
        adjustment_interval_ms: engine time between two adjustments.
        adjustment_factor: short form that sets growth and decay alike when it is given; a `growth_coefficient` or
            `decay_coefficient` given beside it wins. Not given, it has no effect.
        stabilization_cycles: windows over which size and score must hold still to be called stable.
        batch_size_change_threshold: relative change of the size below which it holds still.
        performance_fluctuation_threshold: (max - min) / mean of the score below which it holds still.
        memory_safety_margin_mb: device memory never counted as available, in MB of 2**20 bytes.
        memory_usage_limit: share of the remaining memory that may be used.
        max_consecutive_failures: failures in a row after which everything learned is forgotten.
        fallback_level: strongest fallback taken on a score drop: none, minor, moderate, major or safe.
        throughput_weight: weight of normalised throughput in the score; the three weights should add up to 1, a sum
            off by more than 0.01 is warned of, and the score divides by the sum.
        gpu_utilization_weight: weight of utilisation.
        memory_efficiency_weight: weight of 1 - memory waste.
        min_acceptable_throughput: tokens/s below which a size is not acceptable.
        max_acceptable_latency_ms: batch time above which a size is not acceptable.
        target_gpu_utilization: utilisation that counts as good.
        enable_oscillation: whether small steps are tried while nothing else is called for.
        enable_auto_recovery: whether the size recovers by itself while the score rises.
        recovery_sensitivity: how readily it does, 0-1.
        load_change_threshold: relative change of the load that calls for adjustment.
        enable_debug_logging: whether every decision is logged.
        metrics_history_size: windows remembered.
        report_interval_sec: seconds between two reports.
        exploration_interval: batches between two explorations while stable.

    Raises:
        ConfigError: an unknown key, a value that is not allowed, or a contradiction; `problems` holds a message by key.

    Source: dynamic batch tuner document, configuration table (SPEC 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    enabled: bool = True
    strategy: Literal["static", "dynamic", "hybrid"] = "dynamic"
    fixed_batch_size: Annotated[int, Field(ge=0)] = 0
    min_batch_size: Annotated[Count, Recommended(1, 8)] = 1
    max_batch_size: Annotated[Count, Recommended(64, 512)] = 256
    initial_batch_size: Annotated[Count, Recommended(4, 16)] = 8
    max_probing_attempts: Annotated[Count, Recommended(5, 20)] = 10
    probing_growth_factor: Annotated[float, Field(gt=1), Recommended(1.5, 3.0)] = 2.0
    probing_timeout_ms: Annotated[Positive, Recommended(3000, 10000)] = 5000.0
    performance_threshold: Annotated[ProperFraction, Recommended(0.01, 0.20)] = 0.05
    growth_coefficient: Annotated[Positive, Recommended(0.1, 0.5)] = 0.2
    decay_coefficient: Annotated[ProperFraction, Recommended(0.2, 0.5)] = 0.3
    oscillation_coefficient: Annotated[ProperFraction, Recommended(0.01, 0.10)] = 0.05
    adjustment_interval_ms: Annotated[Positive, Recommended(50, 500)] = 100.0
    adjustment_factor: ProperFraction = 0.3
    stabilization_cycles: Annotated[Count, Recommended(5, 20)] = 10
    batch_size_change_threshold: Annotated[Positive, Recommended(0.05, 0.20)] = 0.10
    performance_fluctuation_threshold: Annotated[Positive, Recommended(0.01, 0.10)] = 0.03
    memory_safety_margin_mb: Annotated[NotNegative, Recommended(256, 2048)] = 512.0
    memory_usage_limit: Annotated[PositiveShare, Recommended(0.70, 0.95)] = 0.90
    max_consecutive_failures: Annotated[Count, Recommended(2, 5)] = 3
    fallback_level: Literal["none", "minor", "moderate", "major", "safe"] = "moderate"
    throughput_weight: Annotated[Share, Recommended(0.3, 0.7)] = 0.5
    gpu_utilization_weight: Annotated[Share, Recommended(0.2, 0.5)] = 0.3
    memory_efficiency_weight: Annotated[Share, Recommended(0.1, 0.3)] = 0.2
    min_acceptable_throughput: NotNegative = 10.0
    max_acceptable_latency_ms: Positive = 5000.0
    target_gpu_utilization: Annotated[PositiveShare, Recommended(0.60, 0.95)] = 0.80
    enable_oscillation: bool = True
    enable_auto_recovery: bool = True
    recovery_sensitivity: Annotated[PositiveShare, Recommended(0.1, 1.0)] = 0.5
    load_change_threshold: Annotated[Positive, Recommended(0.20, 0.50)] = 0.30
    enable_debug_logging: bool = False
    metrics_history_size: Annotated[Count, Recommended(50, 200)] = 100
    report_interval_sec: Annotated[Positive, Recommended(5, 30)] = 10.0
    exploration_interval: Annotated[Count, Recommended(50, 200)] = 100

    def __init__(self, **data: Any) -> None:
        self._fill(data)
        self._warn(self.advice().values())

    @classmethod
    def from_dict(cls, data: Mapping[Any, Any], *, warn: bool = True) -> TunerConfig:
        """A configuration from plain data, as YAML or JSON gives it.

        Args:
            data: values by key; missing keys take their default.
            warn: whether values outside their recommended range are warned of.

        Raises:
            ConfigError: as the class says.
        """
        config = cls.__new__(cls)
        config._fill({str(key): value for key, value in data.items()})
        if warn:
            config._warn(config.advice().values())
        return config

    def updated(self, changes: Mapping[str, Any]) -> TunerConfig:
        """A copy with some keys changed, validated as a whole; warns of the changed keys only.

        Args:
            changes: new values by key; `adjustment_factor` sets growth and decay alike unless they are changed too.

        Raises:
            ConfigError: the result would not be a valid configuration; nothing is changed then.
        """
        base = self.to_dict()
        if "adjustment_factor" in changes:
            del base["growth_coefficient"], base["decay_coefficient"]
        config = self.from_dict({**base, **changes}, warn=False)
        self._warn(config.advice(changes.keys()).values())
        return config

    @classmethod
    def recommended(cls) -> dict[str, Recommended]:
        """Recommended range by key; keys without one are left out."""
        marks = ((key, mark) for key, field in cls.model_fields.items() for mark in field.metadata)
        return {key: mark for key, mark in marks if isinstance(mark, Recommended)}

    @property
    def weight_sum(self) -> float:
        """The sum of the score's three weights."""
        return float(sum(getattr(self, key) for key in _WEIGHTS))

    def advice(self, changed: Collection[str] | None = None) -> dict[str, str]:
        """What is outside its recommended range, or odd beside other keys, as a message by key.

        Args:
            changed: only what these keys bring about; None for all.
        """
        messages = {}
        if abs(self.weight_sum - 1.0) > _WEIGHT_SUM_TOLERANCE:
            given = ", ".join(f"{key} {getattr(self, key):g}" for key in _WEIGHTS)
            blamed = next((key for key in _WEIGHTS if key in (changed or self.model_fields_set)), _WEIGHTS[0])
            messages[blamed] = f"the weights add up to {self.weight_sum:g}, not 1 ({given})"
        for key, usual in self.recommended().items():
            given = getattr(self, key)
            if not usual.low <= given <= usual.high:
                said = f"{key} is {given}; the recommended range is {usual}"
                messages[key] = f"{said}; {messages[key]}" if key in messages else said
        return messages if changed is None else {key: said for key, said in messages.items() if key in changed}

    def to_dict(self) -> dict[str, Any]:
        """Every key with its value, as plain data."""
        return self.model_dump()

    def _fill(self, data: dict[str, Any]) -> None:
        """Validate into this instance, in our words rather than pydantic's."""
        try:
            super().__init__(**_spelled_out(data))
        except ValidationError as error:
            raise ConfigError.of(dict(_explained(error))) from None
        problems = {self._given_first(keys): message for keys, message in self._contradictions()}
        if problems:
            raise ConfigError.of(problems)

    def _given_first(self, keys: Iterable[str]) -> str:
        """The key to blame for a contradiction: one that was given rather than left at its default."""
        return min(keys, key=lambda key: key not in self.model_fields_set)

    def _contradictions(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Keys that cannot all be meant, and why."""
        low, high = self.min_batch_size, self.max_batch_size
        bounds = ("min_batch_size", "max_batch_size")
        if low > high:
            yield bounds, f"min_batch_size {low} is above max_batch_size {high}; lower one or raise the other"
        else:
            outside = f"is outside [min_batch_size {low}, max_batch_size {high}]"
            if not low <= self.initial_batch_size <= high:
                yield ("initial_batch_size", *bounds), f"initial_batch_size {self.initial_batch_size} {outside}"
            if self.fixed_batch_size and not low <= self.fixed_batch_size <= high:
                message = f"fixed_batch_size {self.fixed_batch_size} {outside}; 0 leaves it to the server"
                yield ("fixed_batch_size", *bounds), message
        if self.weight_sum == 0.0:
            yield _WEIGHTS, f"the weights are all 0 ({', '.join(_WEIGHTS)}); a score needs one above 0"
        if self.stabilization_cycles > self.metrics_history_size:
            yield (
                ("stabilization_cycles", "metrics_history_size"),
                f"stabilization_cycles {self.stabilization_cycles} is above metrics_history_size "
                f"{self.metrics_history_size}: stability is judged on the history",
            )

    @staticmethod
    def _warn(messages: Iterable[str]) -> None:
        for message in messages:
            warnings.warn(ConfigWarning(message), stacklevel=3)


def _spelled_out(data: dict[str, Any]) -> dict[str, Any]:
    """The data with short forms and the documents' spellings resolved; what is wrong stays for validation to name."""
    data = dict(data)
    factor = data.get("adjustment_factor")
    if isinstance(factor, int | float) and 0 < factor < 1:
        data = {"growth_coefficient": factor, "decay_coefficient": factor, **data}
    strategy = data.get("strategy")
    if isinstance(strategy, str):
        data["strategy"] = SPELLINGS.get(strategy, strategy)
    return data


def _explained(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Key and message of each of pydantic's complaints: given, allowed, usual."""
    for complaint in error.errors(include_url=False):
        key, given = str(complaint["loc"][0]), complaint["input"]
        if complaint["type"] == "extra_forbidden":
            near = closest(key, TunerConfig.model_fields)
            yield (
                key,
                f"unknown key {key!r}; "
                + (
                    f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(TunerConfig.model_fields)}"
                ),
            )
            continue
        usual = TunerConfig.recommended().get(key)
        message = f"{key} is {given!r}; it must be {allowed(key)}" + (f", usually {usual}" if usual else "")
        yield key, message + (_hint(key, given) if isinstance(given, str) else "")


def _hint(key: str, given: str) -> str:
    """What a person who gave this text may have meant."""
    annotation = TunerConfig.model_fields[key].annotation
    if near := closest(given, get_args(annotation)):
        return f"; did you mean {near[0]}?"
    if annotation in (int, float):
        return "; it was read as text, so write it without quotes, and 0.01 rather than 1e-2"
    return ""


def allowed(key: str) -> str:
    """What a key may hold, in words: "a whole number >= 1".

    Args:
        key: a key of the section.

    Raises:
        KeyError: no such key.
    """
    field = TunerConfig.model_fields[key]
    if field.annotation is bool:
        return "true or false"
    if choices := get_args(field.annotation):
        return "one of " + ", ".join(choices)
    bounds = []
    for mark in field.metadata:
        match mark:
            case Ge():
                bounds.append(f">= {mark.ge}")
            case Gt():
                bounds.append(f"> {mark.gt}")
            case Le():
                bounds.append(f"<= {mark.le}")
            case Lt():
                bounds.append(f"< {mark.lt}")
    return ("a whole number " if field.annotation is int else "a finite number ") + " and ".join(bounds)

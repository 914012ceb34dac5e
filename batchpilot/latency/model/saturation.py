"""The throughput-saturation model: step latency from requests B, tokens S and context C. Times in ms, rates per ms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from batchpilot.configs.kinds import wrong_kind
from batchpilot.core.files import write_atomic
from batchpilot.core.names import lookup
from batchpilot.latency.model.compiled import kernel
from batchpilot.latency.model.vectorised import steps_gradient, steps_ms

N_PARAMETERS = 11
_STRICTLY_POSITIVE = ("p_max", "k_b", "k_s", "w_1", "s_e")


@dataclass(frozen=True, slots=True)
class SaturationParameters:
    """Parameters of the step latency.

        Thr(B, S)  = p_max * (1 - exp(-k_b*B)) * (1 - exp(-k_s*S))
        T(B, S, C) = tau_0 + (w_0 + w_1*S) / Thr(B, S) + tau_b*B + tau_s*S + tau_c*C + tau_e * S / (S + s_e)

    Attributes:
        p_max: throughput at saturation, tokens/ms when w_1 = 1, > 0.
        k_b: how fast requests saturate it, > 0.
        k_s: how fast tokens saturate it, > 0.
        w_0: work of a step that does not depend on its tokens, >= 0.
        w_1: work per token, > 0; p_max, w_0 and w_1 appear only as ratios, so 1 by convention.
        tau_0: fixed time of a step in ms, >= 0.
        tau_b: ms per request, >= 0.
        tau_s: ms per token, >= 0.
        tau_c: ms per context token read, >= 0; ours, and 0 reproduces the documents' model.
        tau_e: ms to read all experts of a mixture, >= 0; ours, and 0, for a dense model, leaves the term out.
        s_e: tokens that touch half of the experts' weights, > 0.

    Raises:
        ValueError: a parameter is outside its bound or not finite; the message names it.

    Source: throughput saturation document, eq. T(B, S).
    """

    p_max: float
    k_b: float
    k_s: float
    w_0: float = 0.0
    w_1: float = 1.0
    tau_0: float = 0.0
    tau_b: float = 0.0
    tau_s: float = 0.0
    tau_c: float = 0.0
    tau_e: float = 0.0
    s_e: float = 64.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            strict = field.name in _STRICTLY_POSITIVE
            if not math.isfinite(value) or value < 0 or (strict and value == 0):
                raise ValueError(f"{field.name} is {value}; it must be {'>' if strict else '>='} 0 and finite")

    def predict(self, batch_size: ArrayLike, tokens: ArrayLike, context_tokens: ArrayLike = 0.0) -> NDArray[np.float64]:
        """Step latency of the saturation model.

        Args:
            batch_size: requests in the step, >= 1; broadcasts with the others, shape (...).
            tokens: tokens computed in the step, >= 1.
            context_tokens: tokens read by attention, >= 0.

        Returns:
            Latency in ms, shape (...).

        Raises:
            ValueError: an argument is below its bound or not finite; the message names it.

        Source: throughput saturation model, eq. T(B, S); the terms of context and experts are ours.
        """
        B, S, C = _checked(batch_size, tokens, context_tokens)
        latency_ms = np.empty(B.shape)
        steps_ms(self.as_array(), B.ravel(), S.ravel(), C.ravel(), latency_ms.ravel())
        return latency_ms

    def predict_one(self, batch_size: float, tokens: float, context_tokens: float = 0.0) -> float:
        """`predict` for one step, without the cost of arrays.

        Args:
            batch_size: requests in the step, >= 1.
            tokens: tokens computed in the step, >= 1.
            context_tokens: tokens read by attention, >= 0.

        Raises:
            ValueError: an argument is below its bound or not finite.
        """
        if not (1 <= batch_size < math.inf and 1 <= tokens < math.inf and 0 <= context_tokens < math.inf):
            raise ValueError(
                f"batch_size {batch_size} and tokens {tokens} must be >= 1 and context_tokens {context_tokens} >= 0, "
                "all finite"
            )
        throughput = self.p_max * math.expm1(-self.k_b * batch_size) * math.expm1(-self.k_s * tokens)
        work = (self.w_0 + self.w_1 * tokens) / throughput
        experts = self.tau_e * tokens / (tokens + self.s_e)
        return self.tau_0 + work + self.tau_b * batch_size + self.tau_s * tokens + self.tau_c * context_tokens + experts

    def gradient(
        self, batch_size: ArrayLike, tokens: ArrayLike, context_tokens: ArrayLike = 0.0
    ) -> NDArray[np.float64]:
        """How the latency of a step changes with each parameter, dT/dtheta.

        Args:
            batch_size: requests in the step, >= 1; broadcasts with the others, shape (...).
            tokens: tokens computed in the step, >= 1.
            context_tokens: tokens read by attention, >= 0.

        Returns:
            Shape (11, ...), a row per parameter in field order, in ms per unit of the parameter.

        Raises:
            ValueError: an argument is below its bound or not finite; the message names it.
        """
        B, S, C = _checked(batch_size, tokens, context_tokens)
        gradient = np.empty((N_PARAMETERS, B.size))
        steps_gradient(self.as_array(), B.ravel(), S.ravel(), C.ravel(), gradient)
        return gradient.reshape(N_PARAMETERS, *B.shape)

    def peak_tokens_per_s(
        self, kv_capacity_tokens: float, context_tokens: float = 1024.0, batch_size: int = 512
    ) -> float:
        """Estimated peak of generated tokens per second: the best decode step over all batch sizes that fit.

        This is the documented reference that makes throughput commensurable in the tuner's score.

        Args:
            kv_capacity_tokens: KV tokens that fit.
            context_tokens: context of every request, in tokens.
            batch_size: the largest batch size considered.

        Returns:
            Tokens per second.

        Raises:
            ValueError: the context or the batch size is below 1.
        """
        if context_tokens < 1 or batch_size < 1:
            raise ValueError(f"context_tokens {context_tokens} and batch_size {batch_size} must be >= 1")
        largest = int(max(1, min(batch_size, kv_capacity_tokens // context_tokens)))
        sizes = np.arange(1, largest + 1)
        return float(np.max(1000.0 * sizes / self.predict(sizes, sizes, sizes * context_tokens)))

    def scaled(self, factor: float) -> SaturationParameters:
        """The same engine, every step taking `factor` times as long (throttling, a noisy neighbour).

        Args:
            factor: > 0; above 1 is slower.

        Raises:
            ValueError: the factor is not above 0.
        """
        if not factor > 0 or not math.isfinite(factor):
            raise ValueError(f"latency factor is {factor}; it must be above 0")
        names = ("w_0", "w_1", "tau_0", "tau_b", "tau_s", "tau_c", "tau_e")
        return SaturationParameters(**(asdict(self) | {name: getattr(self, name) * factor for name in names}))

    def perturbed(self, rng: np.random.Generator, relative_error: float) -> SaturationParameters:
        """An imperfect estimate of these parameters: each time-like one off by a log-normal factor.

        Args:
            rng: where the errors are drawn from.
            relative_error: standard deviation of the factor's logarithm, >= 0.

        Raises:
            ValueError: the error is negative.
        """
        if relative_error < 0:
            raise ValueError(f"relative_error is {relative_error}; it must be >= 0")
        names = ("p_max", "w_0", "tau_0", "tau_b", "tau_s", "tau_c", *(("tau_e",) if self.tau_e else ()))
        factors = np.exp(relative_error * rng.standard_normal(len(names)))
        changes = {name: getattr(self, name) * float(factor) for name, factor in zip(names, factors, strict=True)}
        return SaturationParameters(**(asdict(self) | changes))

    def as_array(self) -> NDArray[np.float64]:
        """The parameters in field order, shape (11,), as the kernels take them."""
        return np.array([getattr(self, name) for name in self.__slots__], dtype=np.float64)

    def to_dict(self) -> dict[str, float]:
        """The parameters by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SaturationParameters:
        """Parameters from plain data.

        Args:
            data: values by field name; `p_max`, `k_b` and `k_s` are needed.

        Raises:
            ValueError: an unknown name, a missing one, a value that is no number or outside its bound.
        """
        known = {field.name: None for field in fields(cls)}
        values = {}
        for name, value in data.items():
            lookup(known, name, "latency parameter")
            try:
                values[name] = float(value)
            except (TypeError, ValueError):
                raise ValueError(f"latency parameter {name} is {value!r}; it must be a number") from None
        missing = [name for name in ("p_max", "k_b", "k_s") if name not in values]
        if missing:
            raise ValueError(f"latency parameters lack {', '.join(missing)}")
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: str | Path) -> SaturationParameters:
        """Parameters from a YAML file: the names at the top level or under `parameters`.

        Args:
            path: the file.

        Raises:
            ValueError: the file is no mapping, or a name or value is wrong; the message names the file.
            OSError: the file cannot be read.
        """
        try:
            data = yaml.safe_load(Path(path).read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not YAML: {error}") from None
        if not isinstance(data, dict):
            raise ValueError(f"{path}: expected latency parameters by name, found {type(data).__name__}")
        if told := wrong_kind(path, data, "latency"):
            raise ValueError(told)
        try:
            return cls.from_dict(data.get("parameters", data))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def to_yaml(self, path: str | Path) -> Path:
        """Write the parameters under `parameters`, as `from_yaml` reads them.

        Args:
            path: the file to write.
        """
        return write_atomic(path, yaml.safe_dump({"parameters": self.to_dict()}, sort_keys=False))


def _checked(
    batch_size: ArrayLike, tokens: ArrayLike, context_tokens: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """B, S and C as arrays of one shape, within their bounds."""
    B, S, C = (np.asarray(x, dtype=np.float64) for x in (batch_size, tokens, context_tokens))
    for name, values, lowest in (("batch_size", B, 1), ("tokens", S, 1), ("context_tokens", C, 0)):
        if values.size and not (values.min() >= lowest and values.max() < math.inf):
            raise ValueError(f"{name} holds a value that is not finite or below {lowest}")
    if B.shape == S.shape == C.shape:
        return B, S, C
    shape = np.broadcast_shapes(B.shape, S.shape, C.shape)
    B, S, C = (np.broadcast_to(x, shape) for x in (B, S, C))
    return B, S, C


@kernel
def step_ms(p: NDArray[np.float64], B: float, S: float, C: float) -> float:
    """T(B, S, C) in ms for parameters `p` in field order; compiled, unchecked."""
    throughput = p[0] * math.expm1(-p[1] * B) * math.expm1(-p[2] * S)
    return float(p[5] + (p[3] + p[4] * S) / throughput + p[6] * B + p[7] * S + p[8] * C + p[9] * S / (S + p[10]))


@kernel
def is_reachable(p: NDArray[np.float64], target_ms: float, most_requests: int) -> bool:
    """Whether steps of one token a request meet a target at some batch size of 1, 2, 4, ... up to the most.

    One request alone is not enough to ask: where k_b is small, T falls steeply with B.
    """
    B = 1.0
    while most_requests > B:
        if step_ms(p, B, B, 0.0) <= target_ms:
            return True
        B *= 2.0
    return step_ms(p, float(most_requests), float(most_requests), 0.0) <= target_ms


@kernel
def step_gradient(p: NDArray[np.float64], B: float, S: float, C: float, out: NDArray[np.float64]) -> None:
    """dT/dtheta of one step into `out`, shape (11,), for parameters `p` in field order; compiled, unchecked."""
    by_requests, by_tokens = math.expm1(-p[1] * B), math.expm1(-p[2] * S)
    throughput = p[0] * by_requests * by_tokens
    work = (p[3] + p[4] * S) / throughput
    out[0] = -work / p[0]
    out[1] = work * B * (1.0 + by_requests) / by_requests
    out[2] = work * S * (1.0 + by_tokens) / by_tokens
    out[3] = 1.0 / throughput
    out[4] = S / throughput
    out[5] = 1.0
    out[6] = B
    out[7] = S
    out[8] = C
    out[9] = S / (S + p[10])
    out[10] = -p[9] * S / (S + p[10]) ** 2


@kernel
def largest_tokens(p: NDArray[np.float64], B: float, C: float, target_ms: float, cap: int) -> int:
    """The largest S <= cap with T(B, S, C) <= target, 0 when there is none; the inverse of T along S.

    Where the token throughput has saturated (exp(-k_s*S) ~ 0) T is linear in S, so its inverse there bounds the answer
    from above; below that bound a bisection finds it. T may fall with S where S is small, but it is quasi-convex in S,
    so the set of S that fit is an interval and its upper end is what we want. With both w_0 and
    experts T may fall again; the answer then fits, and one more token does not.
    """
    if cap < 1:
        return 0
    if step_ms(p, B, float(cap), C) <= target_ms:
        return cap
    thr = p[0] * -math.expm1(-p[1] * B)
    bound = (target_ms - p[5] - p[6] * B - p[8] * C - p[3] / thr) / (p[4] / thr + p[7])
    if bound < 1.0:
        return 0
    high = min(cap, int(bound) + 1)
    low = 1
    if step_ms(p, B, float(low), C) > target_ms:
        # One token does not fit, more may, where w_0 is shared by few: T falls to one minimum and rises from there.
        low, beyond = 1, high
        while low < beyond:
            middle = (low + beyond) // 2
            if step_ms(p, B, float(middle + 1), C) < step_ms(p, B, float(middle), C):
                low = middle + 1
            else:
                beyond = middle
        if step_ms(p, B, float(low), C) > target_ms:
            return 0
    while low < high:
        middle = (low + high + 1) // 2
        if step_ms(p, B, float(middle), C) <= target_ms:
            low = middle
        else:
            high = middle - 1
    return low

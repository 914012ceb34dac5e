"""Parts of a `workload` section: rates, lengths and who sends. Lengths in tokens, times in s."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from batchpilot.configs.strict import StrictModel, problem

Positive = Annotated[float, Field(gt=0)]
Tokens = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Priority = Literal["high", "normal", "low"]


class Rate(StrictModel):
    """How many requests a phase brings; exactly one of the two is given.

    Attributes:
        rate_per_s: mean arrivals per second.
        load: the same as a multiple of the device's estimated capacity in requests per second for the phase's lengths,
            so that a scenario means the same on every device.
    """

    rate_per_s: Positive | None = None
    load: Positive | None = None

    @model_validator(mode="after")
    def _one_rate(self) -> Rate:
        if (self.rate_per_s is None) == (self.load is None):
            given = "neither" if self.load is None else "both"
            raise problem(f"{given} of rate_per_s and load given; give exactly one")
        return self


class PoissonArrivals(Rate):
    """Independent arrivals at a constant rate."""

    kind: Literal["poisson"]


class GammaArrivals(Rate):
    """Gamma-distributed gaps.

    Attributes:
        cv: coefficient of variation of the gaps; above 1 is bursty.
    """

    kind: Literal["gamma"]
    cv: Positive


class MmppState(StrictModel):
    """One state of a Markov-modulated Poisson process.

    Attributes:
        factor: rate relative to the other states; the mean over all states is the phase's rate.
        mean_dwell_s: mean time spent in the state.
    """

    factor: Annotated[float, Field(ge=0)]
    mean_dwell_s: Positive


class MmppArrivals(Rate):
    """Markov-modulated Poisson arrivals.

    Attributes:
        states: two or more.
    """

    kind: Literal["mmpp"]
    states: Annotated[list[MmppState], Field(min_length=2)]

    @model_validator(mode="after")
    def _some_state_arrives(self) -> MmppArrivals:
        if not any(state.factor > 0 for state in self.states):
            raise problem("every state has factor 0, so nothing ever arrives; raise at least one", "states")
        return self


class DiurnalArrivals(Rate):
    """A rate that swings as a sine.

    Attributes:
        amplitude: relative swing, from 0 to 1.
        period_s: length of one day.
    """

    kind: Literal["diurnal"]
    amplitude: Share
    period_s: Positive


ArrivalsSpec = Annotated[PoissonArrivals | GammaArrivals | MmppArrivals | DiurnalArrivals, Field(discriminator="kind")]


class FixedLengths(StrictModel):
    """Every request alike."""

    kind: Literal["fixed"]
    prompt_tokens: Tokens
    output_tokens: Tokens


class UniformRange(StrictModel):
    """Whole lengths from `min` to `max`, equally likely."""

    min: Tokens
    max: Tokens

    @model_validator(mode="after")
    def _in_order(self) -> UniformRange:
        if self.min > self.max:
            raise problem(f"min {self.min} is above max {self.max}; lower one or raise the other", "min")
        return self


class UniformLengths(StrictModel):
    """Independent uniform lengths."""

    kind: Literal["uniform"]
    prompt_tokens: UniformRange
    output_tokens: UniformRange


class LogNormalShape(UniformRange):
    """Lognormal lengths clipped to [min, max].

    Attributes:
        median: the middle length.
        sigma: standard deviation of the logarithm.
    """

    median: Positive
    sigma: Annotated[float, Field(ge=0)]
    min: Tokens = 1
    max: Tokens = 8192


class LogNormalLengths(StrictModel):
    """Independent lognormal lengths."""

    kind: Literal["lognormal"]
    prompt_tokens: LogNormalShape
    output_tokens: LogNormalShape


class FittedLengths(StrictModel):
    """Lengths fitted to a published trace.

    Attributes:
        max_prompt_tokens: longer prompts are cut to this, for models of short context.
        max_output_tokens: likewise for outputs.
    """

    kind: Literal["azure-conv", "azure-code"]
    max_prompt_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None


LengthsSpec = Annotated[FixedLengths | UniformLengths | LogNormalLengths | FittedLengths, Field(discriminator="kind")]


class Senders(StrictModel):
    """Who sends the requests and what they were promised. Shares sum to 1.

    Attributes:
        slo_mix: share of each SLO class.
        users: number of tenants; the k-th sends in proportion to 1/k (Zipf), which is our assumption.
        priority_mix: share of each priority.
    """

    slo_mix: dict[str, Share] = Field({"interactive": 1.0})
    users: Annotated[int, Field(ge=1)] = 1
    priority_mix: dict[Priority, Share] = Field({"normal": 1.0})

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Senders:
        for name in ("slo_mix", "priority_mix"):
            total = sum(getattr(self, name).values())
            if not math.isclose(total, 1.0, abs_tol=1e-6):
                raise problem(f"the shares of {name} sum to {total:g}; they must sum to 1", name)
        return self

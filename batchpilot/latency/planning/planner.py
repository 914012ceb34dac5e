"""From a latency model, lengths and an SLO to limits and the rate that one engine holds: closed forms, no simulation.

An engine *holds* a Poisson rate when at least the wanted share of its requests is served within both targets under the
planned limits. Times in ms, rates per second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from batchpilot.core.limits import Limits
from batchpilot.core.slo import SLO
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.attainment import Outlook, Service
from batchpilot.latency.planning.capacity import MAX_STEP_TOKENS, largest_decode_batch, max_queued_tokens, token_budget
from batchpilot.latency.planning.demand import Demand, kv_residents, residents_for, step_ms_at, token_target_ms
from batchpilot.latency.planning.full_steps import full_steps

ATTAINMENT = 0.95
"""Share of the requests that must be served within their SLO unless said otherwise."""

TPOT_SHARE = 0.9
TTFT_SHARE = 0.9
"""Shares of the targets that are planned with: noise, and a server's estimate that is off by a tenth, take the rest."""

RATE_MARGIN = 0.95
"""Planned over analytic rate. The three are calibrated once; docs/planning.md says on what and what they leave."""

TTFT_GUARD = 1.0

_STEP_SHARES = (1.0, 0.8, 0.65, 0.5, 0.35, 0.25)
_BURST_DEVIATIONS = 3.0
_NEAR_SATURATION = 0.85


@dataclass(frozen=True, slots=True)
class Plan:
    """What one engine should run with, and what it then holds.

    Attributes:
        limits: ready to use.
        slo: what is promised.
        attainment: share of the requests that must be served within it.
        rate_per_s: Poisson rate that is held, margin included.
        saturation_per_s: rate at which every step is full: no more can be served, whatever waits.
        bound_by: what keeps the rate from being higher: "compute", "KV memory" or "TTFT target".
        batch_size: mean requests in a step at that rate.
        step_tokens: mean tokens in a step.
        context_tokens: mean context tokens read in a step.
        step_ms: mean step, encoding of images included.
        kv_fraction: mean share of the KV cache in use.
        places: requests whose KV cache fits together.
    """

    limits: Limits
    slo: SLO
    attainment: float
    rate_per_s: float
    saturation_per_s: float
    bound_by: str
    batch_size: float
    step_tokens: float
    context_tokens: float
    step_ms: float
    kv_fraction: float
    places: int

    def together(self, count: int) -> Plan:
        """So many of these behind one door, each with an equal share of the requests.

        Args:
            count: how many, >= 1; means of a step stay those of one.
        """
        limits, queued = self.limits, self.limits.max_queued_tokens
        return replace(
            self,
            limits=limits.replace(
                batch_size=count * limits.batch_size, max_queued_tokens=None if queued is None else count * queued
            ),
            rate_per_s=count * self.rate_per_s,
            saturation_per_s=count * self.saturation_per_s,
            places=count * self.places,
        )

    def engines_for(self, rate_per_s: float) -> int:
        """Engines that hold a rate which is split between them at random.

        Args:
            rate_per_s: requests per second, > 0.

        Raises:
            ValueError: the rate is not above 0.
        """
        if not (rate_per_s > 0 and math.isfinite(rate_per_s)):
            raise ValueError(f"rate is {rate_per_s}; it must be above 0 requests per second")
        return math.ceil(rate_per_s / self.rate_per_s)


def plan(
    parameters: SaturationParameters,
    demand: Demand,
    slo: SLO,
    kv_capacity_tokens: int,
    *,
    attainment: float = ATTAINMENT,
    max_step_tokens: int = MAX_STEP_TOKENS,
) -> Plan:
    """Limits, and the rate that one engine holds with them.

    Args:
        parameters: step latency.
        demand: what is asked; a few hundred requests stand for the mix.
        slo: targets, both finite.
        kv_capacity_tokens: KV tokens that fit.
        attainment: share of the requests to be served within both targets, in [0.5, 1).
        max_step_tokens: most tokens of a step that memory allows, >= 1.

    Raises:
        ValueError: an argument is outside its bound, or no rate is held; the message says why.
    """
    if not (math.isfinite(slo.ttft_ms) and math.isfinite(slo.tpot_ms)):
        raise ValueError(f"{slo} holds no promise to plan for; give finite targets")
    if not 0.5 <= attainment < 1:
        raise ValueError(f"attainment is {attainment}; it must be at least 0.5 and below 1")
    longest = float((demand.prompt_tokens + demand.output_tokens).max())
    if kv_capacity_tokens < longest:
        raise ValueError(f"the KV cache holds {kv_capacity_tokens:,} tokens, the longest request needs {longest:,.0f}")
    found = [
        (outlook, service)
        for service in _services(parameters, demand, slo, kv_capacity_tokens, max_step_tokens)
        if (outlook := service.holding(attainment)) is not None
    ]
    if not found:
        raise ValueError(_why_nothing_holds(parameters, demand, slo, attainment, max_step_tokens))
    outlook, service = max(found, key=lambda pair: pair[0].rate)
    return _planned(outlook, service, slo, attainment, kv_capacity_tokens, max_step_tokens)


def plan_at(
    parameters: SaturationParameters,
    demand: Demand,
    slo: SLO,
    kv_capacity_tokens: int,
    rate_per_s: float,
    *,
    max_step_tokens: int = MAX_STEP_TOKENS,
) -> tuple[Plan, float]:
    """The limits that serve most of a given rate within SLO, and the share that is served.

    Args:
        parameters: step latency.
        demand: what is asked.
        slo: targets, both finite.
        kv_capacity_tokens: KV tokens that fit.
        rate_per_s: requests per second, > 0.
        max_step_tokens: most tokens of a step that memory allows, >= 1.

    Raises:
        ValueError: the rate is not above 0, or no step is short enough for the promise.
    """
    if not (rate_per_s > 0 and math.isfinite(rate_per_s)):
        raise ValueError(f"rate is {rate_per_s}; it must be above 0 requests per second")
    found = [
        (service.facing(rate_per_s / 1000.0), service)
        for service in _services(parameters, demand, slo, kv_capacity_tokens, max_step_tokens)
    ]
    if not found:
        raise ValueError(_why_nothing_holds(parameters, demand, slo, ATTAINMENT, max_step_tokens))
    outlook, service = max(found, key=lambda pair: pair[0].attainment)
    chosen = _planned(outlook, service, slo, ATTAINMENT, kv_capacity_tokens, max_step_tokens)
    return chosen, outlook.attainment


def at_rate(chosen: Plan, rate_per_s: float, parameters: SaturationParameters, demand: Demand, kv_tokens: int) -> Plan:
    """The same limits at another rate, with the usual step there.

    Args:
        chosen: a plan for the same engine and demand.
        rate_per_s: requests per second, > 0.
        parameters: step latency.
        demand: what is asked.
        kv_tokens: KV tokens that fit.
    """
    usual = residents_for(parameters, demand, rate_per_s / 1000.0)
    requests, tokens, read = (float(x) for x in demand.step_at(usual))
    return replace(
        chosen,
        rate_per_s=rate_per_s,
        batch_size=requests,
        step_tokens=tokens,
        context_tokens=read,
        step_ms=float(step_ms_at(parameters, demand, usual)),
        kv_fraction=usual * demand.resident_kv[0] / kv_tokens,
    )


def planned_service(
    parameters: SaturationParameters, demand: Demand, chosen: Plan, max_step_tokens: int = MAX_STEP_TOKENS
) -> Service:
    """The engine under a plan's limits, for asking about other rates.

    Args:
        parameters: step latency.
        demand: what is asked.
        chosen: a plan for it.
        max_step_tokens: most tokens of a step that memory allows.
    """
    target_ms = chosen.limits.step_target_ms or token_target_ms(parameters, demand, chosen.slo.tpot_ms)
    engine = full_steps(parameters, demand, target_ms, max_step_tokens)
    if engine is None:
        raise ValueError(f"no step is as short as the plan's {target_ms} ms; it was made for another engine")
    return Service(parameters, engine, chosen.places, TTFT_SHARE * chosen.slo.ttft_ms)


def _services(
    parameters: SaturationParameters, demand: Demand, slo: SLO, kv_capacity_tokens: int, max_step_tokens: int
) -> list[Service]:
    """The engine at several step targets: long steps serve more, short ones keep a tight TTFT."""
    places = kv_residents(demand, kv_capacity_tokens)
    targets = [token_target_ms(parameters, demand, share * TPOT_SHARE * slo.tpot_ms) for share in _STEP_SHARES]
    engines = [full_steps(parameters, demand, target, max_step_tokens) for target in targets]
    return [Service(parameters, engine, places, TTFT_SHARE * slo.ttft_ms) for engine in engines if engine is not None]


def _planned(
    outlook: Outlook, service: Service, slo: SLO, attainment: float, kv_capacity_tokens: int, max_step_tokens: int
) -> Plan:
    parameters, engine, demand = service.parameters, service.engine, service.engine.demand
    full, _, context = (float(x) for x in demand.step_at(min(service.places, engine.residents)))
    residents = outlook.rate * engine.step_ms * demand.steps
    burst = math.ceil(residents + _BURST_DEVIATIONS * residents**0.5 + 2)
    decoding = largest_decode_batch(parameters, context / full, slo.tpot_ms)
    batch_size = max(1, min(burst, service.places, decoding))
    budget = max(batch_size, token_budget(parameters, full, context, engine.target_ms, max_step_tokens))
    queued = max_queued_tokens(parameters, full, context, budget, slo.ttft_ms, demand.encode_ms_per_token)
    rate = RATE_MARGIN * outlook.rate
    usual = residents_for(parameters, demand, rate)
    requests, tokens, read = (float(x) for x in demand.step_at(usual))
    return Plan(
        limits=Limits(
            batch_size,
            token_budget=budget,
            max_queued_tokens=max(queued, 1),
            step_target_ms=engine.target_ms,
            ttft_guard=TTFT_GUARD,
        ),
        slo=slo,
        attainment=attainment,
        rate_per_s=1000.0 * rate,
        saturation_per_s=1000.0 * engine.rate,
        bound_by=_bound_by(outlook, engine.rate),
        batch_size=requests,
        step_tokens=tokens,
        context_tokens=read,
        step_ms=float(step_ms_at(parameters, demand, usual)),
        kv_fraction=usual * demand.resident_kv[0] / kv_capacity_tokens,
        places=service.places,
    )


def _bound_by(outlook: Outlook, saturation: float) -> str:
    if outlook.refused_for_memory > outlook.refused_for_compute:
        return "KV memory"
    return "compute" if outlook.rate >= _NEAR_SATURATION * saturation else "TTFT target"


def _why_nothing_holds(
    parameters: SaturationParameters, demand: Demand, slo: SLO, attainment: float, max_step_tokens: int
) -> str:
    floor_ms = float(parameters.predict(1, 1))
    if floor_ms > TPOT_SHARE * slo.tpot_ms:
        return f"a step of one token takes {floor_ms:.1f} ms; {TPOT_SHARE:.0%} of the TPOT target is less"
    longest_ms = token_target_ms(parameters, demand, TPOT_SHARE * slo.tpot_ms)
    engine = full_steps(parameters, demand, longest_ms, max_step_tokens)
    if engine is None:
        return f"no step that serves these requests is as short as {TPOT_SHARE:.0%} of {slo.tpot_ms:g} ms (TPOT target)"
    alone = float((engine.prompt_ms + engine.step_ms > TTFT_SHARE * slo.ttft_ms).mean())
    return (
        f"{attainment:.0%} within TTFT {slo.ttft_ms:g} ms and TPOT {slo.tpot_ms:g} ms is held at no rate: {alone:.0%} "
        f"of the prompts take longer than {TTFT_SHARE:.0%} of the TTFT target even alone"
    )

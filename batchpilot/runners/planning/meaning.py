"""What a plan means for devices, money and energy, and how much of it is margin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchpilot.configs.catalogue import Price
from batchpilot.runners.planning.asked import Tariffs
from batchpilot.runners.planning.capacity import Capacity
from batchpilot.runners.planning.choosing import Choice
from batchpilot.runners.planning.fitting import images_line, intensity_line, memory_line, startup_line
from batchpilot.runners.planning.held import Simulated
from batchpilot.runners.planning.planned import Question

SLOWER = 1.1
"""The margin is told for steps that take so many times as long as is known."""


def fleet_figures(question: Question, capacity: Capacity, tariffs: Tariffs) -> dict[str, Any]:
    """What the plan means for devices and money, and how much of it is margin.

    Args:
        question: what is served on what.
        capacity: how much an engine takes.
        tariffs: what costs follow from.
    """
    chosen, rate = capacity.plan, tariffs.rate_per_s
    price, drawn = tariffs.prices.get(question.device.name), tariffs.powers.get(question.device.name)
    hourly = None if price is None else price.usd_per_hour
    choice = Choice(question, chosen, simulated=True, usd_per_hour=hourly, rate_per_s=rate, power=drawn)
    figures: dict[str, Any] = {
        "rate_per_device_per_s": chosen.rate_per_s / question.tensor_parallel,
        "rate_if_steps_are_slower_per_s": _rate_if_slower(question, capacity),
        **_costs(choice, price, held_at_plan(capacity)),
        "joules_per_output_token": choice.joules_per_token,
        "power_source": None if drawn is None else drawn.source,
    }
    if rate is not None:
        figures |= {
            "rate_per_s": rate,
            "engines": choice.engines,
            "devices": choice.devices,
            "spare": choice.engines * choice.engine.rate_per_s / rate - 1,
        }
    return figures


def facts(question: Question, capacity: Capacity, fleet: Mapping[str, Any]) -> dict[str, str]:
    """The same for people, by what it says.

    Args:
        question: what is served on what.
        capacity: how much an engine takes.
        fleet: what `fleet_figures` made of it.
    """
    chosen = capacity.plan
    closed_form = question.of_engine(capacity.proposed).rate_per_s
    off = 100 * (capacity.proposed.rate_per_s / chosen.rate_per_s - 1)
    return {
        "memory": memory_line(question),
        "start-up": startup_line(question, question.of_engine(chosen).limits.batch_size),
        "the mean step": intensity_line(question, chosen),
        "per device": f"{fleet['rate_per_device_per_s']:.3f} requests/s",
        "if steps take 10 % longer": f"{fleet['rate_if_steps_are_slower_per_s']:.3f} requests/s per engine",
        "closed form alone": f"{closed_form:.3f} requests/s, {off:+.1f} % of what simulation holds",
        **_cache_facts(question, held_at_plan(capacity)),
        **_cost_facts(fleet),
    }


def held_at_plan(capacity: Capacity) -> Simulated:
    """The simulation of the planned rate.

    Args:
        capacity: how much an engine takes.
    """
    return next(point for point in capacity.curve if point.rate_per_s == capacity.plan.rate_per_s)


def _rate_if_slower(question: Question, capacity: Capacity) -> float:
    try:
        slower = question.of_engine(question.plan(SLOWER))
        return slower.rate_per_s * capacity.plan.rate_per_s / capacity.proposed.rate_per_s
    except ValueError:
        return 0.0


def _costs(choice: Choice, price: Price | None, held: Simulated) -> dict[str, Any]:
    hourly = None if price is None else price.usd_per_hour
    good = 3600.0 * held.goodput_tokens_per_s
    return {
        "usd_per_device_hour": hourly,
        "price_source": None if price is None else price.source,
        "price_read_on": None if price is None or price.read_on is None else str(price.read_on),
        "usd_per_million_output_tokens": choice.usd_per_million,
        "usd_per_million_tokens_within_slo": (
            None if hourly is None or not good else 1e6 * choice.question.tensor_parallel * hourly / good
        ),
    }


def _cache_facts(question: Question, held: Simulated) -> dict[str, str]:
    """What images and prefixes do to the plan, where there are any."""
    told = {"images": images_line(question, held)} if question.image_share else {}
    if question.prefix_cache:
        told["prefix cache"] = (
            f"{question.demand.prefix_hit_rate:.0%} of the prompt tokens planned as found, {held.prefix_hit_rate:.0%} "
            "found in simulation"
        )
    return told


def _cost_facts(fleet: Mapping[str, Any]) -> dict[str, str]:
    """What it costs and takes, as far as that is known or was asked."""
    told: dict[str, str] = {}
    if fleet["usd_per_million_output_tokens"] is not None:
        read_on = f", {fleet['price_read_on']}" if fleet["price_read_on"] else ""
        told["cost"] = (
            f"${fleet['usd_per_million_output_tokens']:.3g} a million output tokens at "
            f"${fleet['usd_per_device_hour']:.2f} a device hour ({fleet['price_source']}{read_on})"
        )
        told["cost within SLO"] = f"${fleet['usd_per_million_tokens_within_slo']:.3g} a million, an engine at its rate"
    if fleet["joules_per_output_token"] is not None:
        told["energy"] = f"{fleet['joules_per_output_token']:.3g} J an output token, by model ({fleet['power_source']})"
    if "engines" in fleet:
        told[f"for {fleet['rate_per_s']:g} requests/s"] = (
            f"{fleet['devices']} devices in {fleet['engines']} engines, {fleet['spare']:.0%} to spare"
        )
    return told

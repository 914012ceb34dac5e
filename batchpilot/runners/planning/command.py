"""`batchpilot plan`: which device, parallelism and type, which limits, and how many devices a rate needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from batchpilot.configs.catalogue import Power, Price, devices
from batchpilot.configs.catalogue import device as find_device
from batchpilot.configs.catalogue import model as find_model
from batchpilot.configs.catalogue import powers as find_powers
from batchpilot.configs.catalogue import prices as find_prices
from batchpilot.configs.footprint import kv_type, weight_type
from batchpilot.core.files import json_text
from batchpilot.core.names import lookup
from batchpilot.core.provenance import provenance
from batchpilot.core.slo import SLO
from batchpilot.latency.model.parameter_file import read_parameters
from batchpilot.latency.model.vision_tower import TOWERS
from batchpilot.latency.planning.growth import Month, expansion
from batchpilot.latency.planning.planner import ATTAINMENT
from batchpilot.runners.options import (
    CatalogueOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    ParametersOption,
    PrefixCacheOption,
    TensorParallelOption,
    refuse,
    reporting_mistakes,
    stdout_console,
)
from batchpilot.runners.pasted import show_pasted
from batchpilot.runners.planning.capacity import Capacity, find_capacity
from batchpilot.runners.planning.choices_page import choices_chart, choices_grid, refused_grid
from batchpilot.runners.planning.choosing import Choice, Refused, compare, pareto, ways
from batchpilot.runners.planning.fitting import images_line, intensity_line, memory_line, startup_line
from batchpilot.runners.planning.growing import growth_grid, parse_growth
from batchpilot.runners.planning.loads import find_load
from batchpilot.runners.planning.measured import measured_or_refused
from batchpilot.runners.planning.page import disagreement_grid, plan_grid, verdict, write_plan_page
from batchpilot.runners.planning.planned import Question, held_in_simulation
from batchpilot.runners.planning.weight_types import PREFERENCES, type_lines
from batchpilot.runners.report.tables import tables

SLOWER = 1.1
"""The margin is told for steps that take so many times as long as is known."""

_STAND_IN = "H100-80GB"
"""Whose requests a scenario draws where no device is given, since its load may depend on it."""

_TOLD = 4


@reporting_mistakes
def plan_command(
    context: typer.Context,
    device: DeviceOption = None,
    model: ModelOption = None,
    workload: Annotated[
        str,
        typer.Option(help="azure-conv, azure-code, prompt,output in tokens, a scenario's name or file, or a trace."),
    ] = "azure-conv",
    prefix_cache: PrefixCacheOption = None,
    tower: Annotated[
        str | None, typer.Option(help=f"What encodes images: {', '.join(TOWERS)}; else as the scenario says.")
    ] = None,
    tensor_parallel: TensorParallelOption = None,
    dtype: Annotated[
        str | None, typer.Option(help="Type of the weights: fp16, fp8, int8, int4, nvfp4, mxfp4; else as published.")
    ] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="Type of the KV cache: fp16 or fp8; else as published.")] = None,
    prefer: Annotated[
        str, typer.Option(help=f"What comes first where 16 bits do not fit: {', '.join(PREFERENCES)}.")
    ] = "cost",
    engine: Annotated[str | None, typer.Option(help="Whose measured operators count: vllm, sglang or trtllm.")] = None,
    catalogue: CatalogueOption = None,
    prices: Annotated[Path | None, typer.Option(help="YAML of your own prices of devices an hour.")] = None,
    power: Annotated[Path | None, typer.Option(help="YAML of what your own devices draw, in W.")] = None,
    parameters: ParametersOption = None,
    ttft_ms: Annotated[float, typer.Option(help="Promised time to first token.")] = SLO().ttft_ms,
    tpot_ms: Annotated[float, typer.Option(help="Promised time per output token after the first.")] = SLO().tpot_ms,
    attainment: Annotated[float, typer.Option(help="Share of the requests to be served within both.")] = ATTAINMENT,
    rate: Annotated[float | None, typer.Option(help="Requests per second to plan devices for.")] = None,
    growth: Annotated[
        str | None, typer.Option(help="Growth of the rate a month, 8%, or a CSV file of past rates: date,rate_per_s.")
    ] = None,
    months: Annotated[int, typer.Option(min=1, help="How far to plan for growth.")] = 12,
    lead_months: Annotated[float, typer.Option(min=0.0, help="From an order until a device serves.")] = 1.0,
    seeds: Annotated[int, typer.Option(min=1, help="Simulations of each rate.")] = 5,
    duration_s: Annotated[float, typer.Option(min=1.0, help="Engine time of a simulation.")] = 300.0,
    report: Annotated[Path | None, typer.Option(help="Also write this HTML page.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Which devices, parallelism and type serve a load at least cost, with which limits, and how many it takes.

    What is given is kept: with --device, parallelism and type are searched; with these too, one deployment is planned.
    """
    lookup(PREFERENCES, prefer, "preference")
    growing = None if growth is None else parse_growth(growth, rate)
    if growing is None:
        refuse(context, "without --growth", "months", "lead_months")
    else:
        rate = growing.rate_per_s
    measured = {} if parameters is None else read_parameters(parameters).known_hardware()
    served = find_model(_named("model", model, measured))
    chip = None if device is None and not measured.get("device") else find_device(_named("device", device, measured))
    share = tensor_parallel or (int(measured.get("tensor_parallel", 1)) if parameters is not None else None)
    stand_in = chip or find_device(_STAND_IN)
    kind = weight_type(dtype, served)
    load = find_load(workload, stand_in, served, share or 1, prefix_cache, tower)
    question = Question(
        stand_in,
        served,
        share or 1,
        kind,
        workload,
        load.draw,
        SLO(ttft_ms, tpot_ms, "promised"),
        attainment,
        kv_type(kv_dtype, served),
        parameters,
        shared=load.shared,
        prefix_cache=load.prefix_cache,
        vision=load.vision,
    )
    known_prices, known_powers = find_prices(prices), find_powers(power)
    choices: list[Choice] = []
    refused: list[Refused] = []
    if parameters is None and (chip is None or share is None or dtype is None):
        with Console(stderr=True).status(f"planning {served.name}") as status:
            layouts = ways(devices() if chip is None else (chip,), served, share, dtype and kind, engine)
            named = _named("model", model, measured)
            choices, refused = compare(
                question, named, layouts, known_prices, rate, engine, kv_dtype, status.update, known_powers
            )
        if not choices:
            raise ValueError(_nothing_serves(refused))
        question = choices[0].question
    elif parameters is None:
        known = measured_or_refused(stand_in, served, str(model), question.tensor_parallel, kind, engine, kv_dtype)
        question = replace(question, known=known)
    capacity = find_capacity(question, question.plan(), range(seeds), duration_s)
    chosen, curve = capacity.plan, capacity.curve
    fleet = _fleet(question, capacity, rate, known_prices, known_powers)
    schedule: list[Month] = []
    if growing is not None:
        hourly = fleet["usd_per_device_hour"]
        engine_hour = math.nan if hourly is None else hourly * question.tensor_parallel
        schedule = expansion(growing, chosen.engines_for, months, lead_months, engine_hour)
    types = type_lines(question, prefer)
    origin = provenance(0, question.stated() | {"parameters": question.latency.parameters.to_dict(), "seeds": seeds})
    grids = (
        plan_grid(question, chosen, _facts(question, capacity, fleet) | types),
        disagreement_grid(question, capacity.proposed, capacity.at_proposed),
        *([growth_grid(schedule, question.tensor_parallel, growing)] if growing is not None else []),
    )
    compared = [choices_grid(choices)] if len(choices) > 1 else []
    compared += [grid for grid in (refused_grid(refused, choices),) if grid.rows]
    if report is not None:
        chart = choices_chart(choices) if any(one.usd_per_million is not None for one in choices) else ""
        write_plan_page(report, question, chosen, curve, (*compared, *grids), origin, chart)
    if as_json:
        figures = asdict(chosen) | question.stated() | {"fleet": fleet, "types": types}
        if growing is not None:
            figures["growth"] = asdict(growing) | {"months": [asdict(month) for month in schedule]}
        checks = {
            "closed_form_per_s": capacity.proposed.rate_per_s,
            "held_in_simulation_per_s": held_in_simulation(curve, attainment),
            "simulated": [asdict(point) for point in curve],
            "choices": [choice.stated() | {"pareto": choice in pareto(choices)} for choice in choices],
            "refused": [asdict(one) for one in refused],
        }
        typer.echo(json_text(figures | checks | origin, indent=2))
        return
    console = stdout_console()
    typer.echo(verdict(question, chosen))
    show_pasted(chosen.limits)
    for grid in (*compared, *grids):
        for table in tables(grid):
            console.print(table)


def _named(what: str, typed: str | None, measured: Mapping[str, str | int]) -> str:
    """The device or model to plan for: as typed, else what the parameter file was measured on."""
    found = typed or measured.get(what)
    if found is None:
        raise ValueError(
            f"--{what} is missing, and no parameter file names one; `batchpilot list {what}s` tells the known ones "
            "(where --device is missing, all are compared)"
        )
    return str(found)


def _nothing_serves(refused: Sequence[Refused]) -> str:
    """Why no way serves the load: the ways and their reasons, a few of them."""
    if not refused:
        return "no device is left to plan for; give another --device, --tensor-parallel or --dtype"
    told = [f"{one.tensor_parallel} x {one.device} ({one.dtype}): {one.reason}" for one in refused[:_TOLD]]
    more = f"; and {len(refused) - _TOLD} more" if len(refused) > _TOLD else ""
    return f"{'; '.join(told)}{more}"


def _fleet(
    question: Question,
    capacity: Capacity,
    rate: float | None,
    prices: Mapping[str, Price],
    powers: Mapping[str, Power],
) -> dict[str, Any]:
    """What the plan means for devices and money, and how much of it is margin."""
    chosen = capacity.plan
    try:
        slower = question.plan(SLOWER).rate_per_s * chosen.rate_per_s / capacity.proposed.rate_per_s
    except ValueError:
        slower = 0.0
    price = prices.get(question.device.name)
    hourly = None if price is None else price.usd_per_hour
    drawn = powers.get(question.device.name)
    choice = Choice(question, chosen, simulated=True, usd_per_hour=hourly, rate_per_s=rate, power=drawn)
    held = next(point for point in capacity.curve if point.rate_per_s == chosen.rate_per_s)
    good = 3600.0 * held.goodput_tokens_per_s
    fleet: dict[str, Any] = {
        "rate_per_device_per_s": chosen.rate_per_s / question.tensor_parallel,
        "rate_if_steps_are_slower_per_s": slower,
        "usd_per_device_hour": hourly,
        "price_source": None if price is None else price.source,
        "price_read_on": None if price is None or price.read_on is None else str(price.read_on),
        "usd_per_million_output_tokens": choice.usd_per_million,
        "usd_per_million_tokens_within_slo": (
            None if hourly is None or not good else 1e6 * question.tensor_parallel * hourly / good
        ),
        "joules_per_output_token": choice.joules_per_token,
        "power_source": None if drawn is None else drawn.source,
    }
    if rate is not None:
        fleet |= {
            "rate_per_s": rate,
            "engines": choice.engines,
            "devices": choice.devices,
            "spare": choice.engines * chosen.rate_per_s / rate - 1,
        }
    return fleet


def _facts(question: Question, capacity: Capacity, fleet: dict[str, Any]) -> dict[str, str]:
    chosen = capacity.plan
    closed_form = capacity.proposed.rate_per_s
    off = 100 * (closed_form / chosen.rate_per_s - 1)
    facts = {
        "memory": memory_line(question),
        "start-up": startup_line(question, chosen.limits.batch_size),
        "the mean step": intensity_line(question, chosen),
        "per device": f"{fleet['rate_per_device_per_s']:.3f} requests/s",
        "if steps take 10 % longer": f"{fleet['rate_if_steps_are_slower_per_s']:.3f} requests/s per engine",
        "closed form alone": f"{closed_form:.3f} requests/s, {off:+.1f} % of what simulation holds",
    }
    held = next(point for point in capacity.curve if point.rate_per_s == chosen.rate_per_s)
    if question.image_share:
        facts["images"] = images_line(question, held)
    if question.prefix_cache:
        facts["prefix cache"] = (
            f"{question.demand.prefix_hit_rate:.0%} of the prompt tokens planned as found, {held.prefix_hit_rate:.0%} "
            "found in simulation"
        )
    if fleet["usd_per_million_output_tokens"] is not None:
        read_on = f", {fleet['price_read_on']}" if fleet["price_read_on"] else ""
        facts["cost"] = (
            f"${fleet['usd_per_million_output_tokens']:.3g} a million output tokens at "
            f"${fleet['usd_per_device_hour']:.2f} a device hour ({fleet['price_source']}{read_on})"
        )
        facts["cost within SLO"] = f"${fleet['usd_per_million_tokens_within_slo']:.3g} a million, an engine at its rate"
    if fleet["joules_per_output_token"] is not None:
        facts["energy"] = (
            f"{fleet['joules_per_output_token']:.3g} J an output token, by model ({fleet['power_source']})"
        )
    if "engines" in fleet:
        facts[f"for {fleet['rate_per_s']:g} requests/s"] = (
            f"{fleet['devices']} devices in {fleet['engines']} engines, {fleet['spare']:.0%} to spare"
        )
    return facts

"""`batchpilot plan`: which device, parallelism and type, which limits, and how many devices a rate needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchpilot.configs.catalogue import powers as find_powers
from batchpilot.configs.catalogue import prices as find_prices
from batchpilot.core.names import lookup
from batchpilot.core.provenance import provenance
from batchpilot.core.slo import SLO
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
)
from batchpilot.runners.planning.asked import Hardware, Tariffs, question_of, settle
from batchpilot.runners.planning.capacity import find_capacity
from batchpilot.runners.planning.growing import parse_growth
from batchpilot.runners.planning.meaning import fleet_figures
from batchpilot.runners.planning.options import (
    GrowthOption,
    PipelineParallelOption,
    PreferOption,
    TowerOption,
    WeightTypeOption,
    WorkloadOption,
)
from batchpilot.runners.planning.output import Expansion, Planned
from batchpilot.runners.planning.weight_types import PREFERENCES, type_lines


@reporting_mistakes
def plan_command(
    context: typer.Context,
    device: DeviceOption = None,
    model: ModelOption = None,
    workload: WorkloadOption = "azure-conv",
    prefix_cache: PrefixCacheOption = None,
    tower: TowerOption = None,
    tensor_parallel: TensorParallelOption = None,
    pipeline_parallel: PipelineParallelOption = 1,
    dtype: WeightTypeOption = None,
    kv_dtype: Annotated[str | None, typer.Option(help="Type of the KV cache: fp16 or fp8; else as published.")] = None,
    prefer: PreferOption = "cost",
    engine: Annotated[str | None, typer.Option(help="Whose measured operators count: vllm, sglang or trtllm.")] = None,
    catalogue: CatalogueOption = None,
    prices: Annotated[Path | None, typer.Option(help="YAML of your own prices of devices an hour.")] = None,
    power: Annotated[Path | None, typer.Option(help="YAML of what your own devices draw, in W.")] = None,
    parameters: ParametersOption = None,
    ttft_ms: Annotated[float, typer.Option(help="Promised time to first token.")] = SLO().ttft_ms,
    tpot_ms: Annotated[float, typer.Option(help="Promised time per output token after the first.")] = SLO().tpot_ms,
    attainment: Annotated[float, typer.Option(help="Share of the requests to be served within both.")] = ATTAINMENT,
    rate: Annotated[float | None, typer.Option(help="Requests per second to plan devices for.")] = None,
    growth: GrowthOption = None,
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
    hardware = Hardware(
        device, model, tensor_parallel, dtype, kv_dtype, engine, parameters, pipeline_parallel=pipeline_parallel
    )
    asked = question_of(hardware, workload, prefix_cache, tower, SLO(ttft_ms, tpot_ms, "promised"), attainment)
    tariffs = Tariffs(find_prices(prices), find_powers(power), rate if growing is None else growing.rate_per_s)
    question, choices, refused = settle(asked, hardware, tariffs)
    capacity = find_capacity(question, question.plan(), range(seeds), duration_s)
    fleet = fleet_figures(question, capacity, tariffs)
    grown = None if growing is None else Expansion.of(growing, question, capacity, fleet, months, lead_months)
    types = type_lines(question, prefer)
    origin = provenance(0, question.stated() | {"parameters": question.latency.parameters.to_dict(), "seeds": seeds})
    planned = Planned(question, capacity, choices, refused, fleet, types, grown, origin)
    if report is not None:
        planned.write_page(report)
    if as_json:
        planned.show_json()
    else:
        planned.show()

"""`batchpilot plan`: which limits, how much one device holds with them, and how many devices a rate needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from batchpilot.configs.catalogue import device as find_device
from batchpilot.configs.catalogue import model as find_model
from batchpilot.configs.footprint import kv_type, weight_type
from batchpilot.core.files import json_text
from batchpilot.core.provenance import provenance
from batchpilot.core.slo import SLO
from batchpilot.latency.model.parameter_file import read_parameters
from batchpilot.latency.planning.planner import ATTAINMENT, Plan
from batchpilot.runners.options import (
    CatalogueOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    ParametersOption,
    TensorParallelOption,
    reporting_mistakes,
    stdout_console,
)
from batchpilot.runners.planning.fitting import memory_line, startup_line
from batchpilot.runners.planning.measured import measured_or_refused
from batchpilot.runners.planning.page import disagreement_grid, pasteable, plan_grid, verdict, write_plan_page
from batchpilot.runners.planning.planned import FACTORS, Question, Simulated, find_draw, held_in_simulation, simulated
from batchpilot.runners.report.tables import tables

SLOWER = 1.1
"""The margin is told for steps that take so many times as long as is known."""


@reporting_mistakes
def plan_command(
    device: DeviceOption = None,
    model: ModelOption = None,
    workload: Annotated[
        str, typer.Option(help="azure-conv, azure-code, prompt,output in tokens, or a scenario's name or file.")
    ] = "azure-conv",
    tensor_parallel: TensorParallelOption = None,
    dtype: Annotated[
        str | None, typer.Option(help="Type of the weights: fp16, fp8, int8, int4, nvfp4, mxfp4; else as published.")
    ] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="Type of the KV cache: fp16 or fp8; else as published.")] = None,
    engine: Annotated[str | None, typer.Option(help="Whose measured operators count: vllm, sglang or trtllm.")] = None,
    catalogue: CatalogueOption = None,
    parameters: ParametersOption = None,
    ttft_ms: Annotated[float, typer.Option(help="Promised time to first token.")] = SLO().ttft_ms,
    tpot_ms: Annotated[float, typer.Option(help="Promised time per output token after the first.")] = SLO().tpot_ms,
    attainment: Annotated[float, typer.Option(help="Share of the requests to be served within both.")] = ATTAINMENT,
    rate: Annotated[float | None, typer.Option(help="Requests per second to plan devices for.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Simulations of each rate.")] = 5,
    duration_s: Annotated[float, typer.Option(min=1.0, help="Engine time of a simulation.")] = 300.0,
    report: Annotated[Path | None, typer.Option(help="Also write this HTML page.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Which limits to run with, how many requests per second a device holds, and how many devices a rate needs."""
    measured = {} if parameters is None else read_parameters(parameters).known_hardware()
    chip = find_device(_named("device", device, measured))
    served = find_model(_named("model", model, measured))
    share = tensor_parallel or int(measured.get("tensor_parallel", 1))
    question = Question(
        chip,
        served,
        share,
        weight_type(dtype, served),
        workload,
        find_draw(workload, chip, served, share),
        SLO(ttft_ms, tpot_ms, "promised"),
        attainment,
        kv_type(kv_dtype, served),
        parameters,
        None
        if parameters is not None
        else measured_or_refused(chip, served, str(model), share, weight_type(dtype, served), engine, kv_dtype),
    )
    chosen = question.plan()
    fleet = _fleet(question, chosen, rate)
    curve = [
        simulated(question, chosen.limits, factor * chosen.rate_per_s, range(seeds), duration_s) for factor in FACTORS
    ]
    origin = provenance(0, question.stated() | {"parameters": question.latency.parameters.to_dict(), "seeds": seeds})
    grids = (
        plan_grid(question, chosen, _facts(question, chosen, fleet, curve)),
        disagreement_grid(question, chosen, curve[FACTORS.index(1.0)]),
    )
    if report is not None:
        write_plan_page(report, question, chosen, curve, grids, origin)
    if as_json:
        figures = asdict(chosen) | question.stated() | {"fleet": fleet}
        held = held_in_simulation(curve, attainment)
        checks = {
            "held_in_simulation_per_s": held,
            "simulated": [asdict(point) for point in curve],
        }
        typer.echo(json_text(figures | checks | origin, indent=2))
        return
    typer.echo(verdict(question, chosen))
    typer.echo(f"limits: {pasteable(chosen.limits)}\n")
    console = stdout_console()
    for grid in grids:
        for table in tables(grid):
            console.print(table)


def _named(what: str, typed: str | None, measured: Mapping[str, str | int]) -> str:
    """The device or model to plan for: as typed, else what the parameter file was measured on."""
    found = typed or measured.get(what)
    if found is None:
        raise ValueError(
            f"--{what} is missing, and no parameter file names one; `batchpilot list {what}s` tells the known ones"
        )
    return str(found)


def _fleet(question: Question, chosen: Plan, rate: float | None) -> dict[str, Any]:
    """What the plan means for devices, and how much of it is margin."""
    try:
        slower = question.plan(SLOWER).rate_per_s
    except ValueError:
        slower = 0.0
    fleet: dict[str, Any] = {
        "rate_per_device_per_s": chosen.rate_per_s / question.tensor_parallel,
        "rate_if_steps_are_slower_per_s": slower,
    }
    if rate is not None:
        engines = chosen.engines_for(rate)
        fleet |= {
            "rate_per_s": rate,
            "engines": engines,
            "devices": engines * question.tensor_parallel,
            "spare": engines * chosen.rate_per_s / rate - 1,
        }
    return fleet


def _facts(question: Question, chosen: Plan, fleet: dict[str, Any], curve: list[Simulated]) -> dict[str, str]:
    facts = {
        "memory": memory_line(question),
        "start-up": startup_line(question, chosen.limits.batch_size),
        "per device": f"{fleet['rate_per_device_per_s']:.3f} requests/s",
        "if steps take 10 % longer": f"{fleet['rate_if_steps_are_slower_per_s']:.3f} requests/s per engine",
    }
    held = held_in_simulation(curve, question.attainment)
    planned = curve[FACTORS.index(1.0)].rate_per_s
    if held is None:
        facts["simulation holds"] = f"less than {curve[0].rate_per_s:.3f} requests/s"
    elif math.isinf(held):
        facts["simulation holds"] = f"more than {curve[-1].rate_per_s:.3f} requests/s"
    else:
        facts["simulation holds"] = f"{held:.3f} requests/s, {100 * (held / planned - 1):+.1f} % of the plan"
    if "engines" in fleet:
        facts[f"for {fleet['rate_per_s']:g} requests/s"] = (
            f"{fleet['devices']} devices in {fleet['engines']} engines, {fleet['spare']:.0%} to spare"
        )
    return facts

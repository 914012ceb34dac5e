"""`batchpilot validate`: does the calibrated simulation tell what the real engine does?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from batchpilot.configs.scenario import EngineSpec
from batchpilot.core.files import json_text
from batchpilot.core.provenance import provenance
from batchpilot.engines.simulated.step_design import MeasuredTrial
from batchpilot.latency.fitting.saturation_fit import fit
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.calibration.grids import percent
from batchpilot.runners.options import JsonOption, refuse, reporting_mistakes, stdout_console
from batchpilot.runners.report.tables import tables
from batchpilot.runners.selection import find_scenario, parse_limits
from batchpilot.runners.torch.calibration import (
    ENGINES,
    FIXED,
    MEASURED_LIMITS,
    TorchServer,
    all_steps,
    labels_of,
    measure,
    named_engine,
    plan_trials,
)
from batchpilot.runners.torch.clock import step_clock
from batchpilot.runners.torch.options import (
    TRIALS,
    DtypeOption,
    KvOption,
    LimitsOption,
    RepeatsOption,
    ThreadsOption,
    TrialsOption,
    shown,
)
from batchpilot.runners.torch.validation import (
    LOAD,
    Validation,
    scenario_requests,
    serve,
    synthetic_requests,
    validate_runs,
    validation_grid,
)

_REQUESTS = 200
_RUNS = 3
_REPEATS = 4
_WORKLOAD_SEED = 1


@reporting_mistakes
def validate(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="A preset, a folder with config.json, or a Hugging Face name.")],
    engine: Annotated[str, typer.Option(help=f"What is real: {', '.join(ENGINES)}.")] = "torch",
    scenario: Annotated[str | None, typer.Option(help="A scenario's requests instead of synthetic ones.")] = None,
    limits: LimitsOption = None,
    parameters: Annotated[
        Path | None, typer.Option(help="What `calibrate --out` wrote; without it the engine is calibrated first.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="How many, at most.")] = _REQUESTS,
    load: Annotated[float, typer.Option(help="Share of the capacity that synthetic requests ask for.")] = LOAD,
    device: Annotated[str | None, typer.Option(help="Torch device.")] = None,
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = None,
    kv_capacity_tokens: KvOption = None,
    trials: TrialsOption = TRIALS,
    repeats: RepeatsOption = _REPEATS,
    runs: Annotated[int, typer.Option(min=1, help="How often the real engine serves the requests.")] = _RUNS,
    seed: Annotated[int, typer.Option(help="Of weights, design, arrivals and lengths.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Run the same requests and limits on the real engine and in its calibrated simulation, and compare."""
    if scenario is not None:
        refuse(context, "with --scenario", "load")
    if parameters is not None:
        refuse(context, "with --parameters", "trials", "repeats")
    named_engine(engine)
    chosen = find_scenario(scenario) if scenario is not None else None
    in_force = parse_limits(limits) if limits is not None else MEASURED_LIMITS
    known = SaturationParameters.from_yaml(parameters) if parameters is not None else None
    server = TorchServer(model, device, dtype, threads, kv_capacity_tokens, seed)
    runner = server.start()
    clock, told = step_clock(runner)
    design = plan_trials(runner, in_force, trials, seed) if known is None else ()

    def measured(rounds: Sequence[int]) -> list[MeasuredTrial]:
        total = len(rounds) * len(design)
        if not total:
            return []
        show = partial(shown, total=total)
        return measure(runner, design, repeats=len(rounds), clock=clock, seed=seed + rounds[0], show=show)

    rounds = [list(map(int, part)) for part in np.array_split(range(repeats), runs + 1)]
    calibrating = measured(rounds[0])
    first = fit(all_steps(calibrating), seed=seed, fixed=FIXED).parameters if known is None else known
    capacity, workload_seed = runner.kv_capacity_tokens, seed + _WORKLOAD_SEED
    if chosen is not None:
        asked = scenario_requests(chosen, first, capacity, requests, seed=workload_seed)
    else:
        asked = synthetic_requests(first, capacity, requests, load=load, seed=workload_seed)
    spec = chosen.engine if chosen is not None else EngineSpec()
    served = []
    for between in rounds[1:]:
        served.append(serve(runner, first, asked, in_force, mode=spec.mode, prefill=spec.prefill, seed=seed))
        calibrating += measured(between)
    found = validate_runs(
        served,
        fit(all_steps(calibrating), seed=seed, fixed=FIXED).parameters if known is None else known,
        labels=labels_of(server, runner) | {"timed": told},
        workload=f"{len(asked)} requests ({chosen.name if chosen is not None else f'synthetic, load {load:g}'})",
    )
    if as_json:
        typer.echo(json_text(found.to_dict() | provenance(seed), indent=2))
    else:
        _show(found)


def _show(found: Validation) -> None:
    console = stdout_console()
    for table in tables(validation_grid(found)):
        console.print(table)
    real, simulated = found.finished
    typer.echo(f"finished: {real} really, {simulated} simulated, of {found.requests}")
    typer.secho(
        f"A step's time is off by {percent(found.steps.mape)} on average and by less than "
        f"{percent(found.steps.p95_error)} in 95 of 100 of the real {found.steps.observations} steps, "
        "none of which was fitted.",
        bold=True,
    )

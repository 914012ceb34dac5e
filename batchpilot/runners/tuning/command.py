"""`batchpilot tune`: the best fixed limits for a scenario, a trace or a torch engine, by Bayesian optimisation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from batchpilot.core.limits import TRACKS
from batchpilot.envs.backends import SIMULATED
from batchpilot.runners.options import (
    CatalogueOption,
    ClusterOption,
    ColumnsOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    ParametersOption,
    PrefixCacheOption,
    RateOption,
    TensorParallelOption,
    TpotOption,
    TraceFormatOption,
    TtftOption,
    reporting_mistakes,
    was_given,
)
from batchpilot.runners.selection import Changes
from batchpilot.runners.torch.backends import BackendOption, chosen_server
from batchpilot.runners.torch.options import KvOption, ThreadsOption
from batchpilot.runners.tuning.asked import (
    Bars,
    Kept,
    Seeds,
    Sought,
    Source,
    check_search,
    of_server,
    refuse_unused,
    simulated_only,
)
from batchpilot.runners.tuning.benches import benches_of
from batchpilot.runners.tuning.live.command import Launch, tune_server
from batchpilot.runners.tuning.live.study import Bounds
from batchpilot.runners.tuning.options import (
    CheckSeedsOption,
    CommandArgument,
    DurationOption,
    MaxMemoryOption,
    MaxRefusedOption,
    MinAttainmentOption,
    ObjectiveOption,
    PriorOption,
    ScenarioOption,
    ServerOption,
    StorageOption,
)
from batchpilot.tuners.bayesian import SAMPLERS

MOST_STARTS = 16
"""Of a server, where --trials does not say."""


@reporting_mistakes
def tune(
    context: typer.Context,
    scenario_name: ScenarioOption = None,
    trace: Annotated[Path | None, typer.Option(help="Replay this trace instead.")] = None,
    trace_format: TraceFormatOption = None,
    columns: ColumnsOption = None,
    rate: RateOption = 1.0,
    start_s: Annotated[float, typer.Option(help="Start of the part of the trace that is tuned on.")] = 0.0,
    duration_s: DurationOption = None,
    backend: BackendOption = SIMULATED,
    track: Annotated[str, typer.Option(help=f"Limits that may move: {', '.join(TRACKS)}.")] = "limits",
    trials: Annotated[int, typer.Option(min=1, help="Trials in the study, those of earlier runs included.")] = 60,
    sampler: Annotated[str, typer.Option(help=f"Who proposes: {', '.join(SAMPLERS)}.")] = "tpe",
    objective: ObjectiveOption = "goodput",
    min_attainment: MinAttainmentOption = 0.0,
    max_memory: MaxMemoryOption = 1.0,
    max_refused: MaxRefusedOption = 1.0,
    prior: PriorOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each trial.")] = 3,
    first_seed: Annotated[int, typer.Option("--seed", help="The first of them; also of the sampler.")] = 0,
    check_seeds: CheckSeedsOption = None,
    grid: Annotated[bool, typer.Option(help="Also search the whole grid, for comparison (simulated only).")] = True,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, or workers of the cluster, on one study.")] = 1,
    cluster: ClusterOption = None,
    storage: StorageOption = None,
    device: DeviceOption = None,
    catalogue: CatalogueOption = None,
    model: ModelOption = None,
    tensor_parallel: TensorParallelOption = None,
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    kv_capacity_tokens: KvOption = None,
    parameters: ParametersOption = None,
    ttft_ms: TtftOption = None,
    tpot_ms: TpotOption = None,
    prefix_cache: PrefixCacheOption = None,
    requests: Annotated[int, typer.Option(min=1, help="Torch: how many requests each run serves, at most.")] = 60,
    out: Annotated[Path | None, typer.Option(help="Folder for results; reports/tune-NAME-TRACK when left out.")] = None,
    server_name: ServerOption = None,
    command: CommandArgument = None,
    minutes: Annotated[float, typer.Option(min=0.0, help="--server: begin no start that would end later.")] = math.inf,
    start_timeout_s: Annotated[float, typer.Option(min=0.1, help="--server: how long a start may take.")] = 900.0,
    grace_s: Annotated[float, typer.Option(min=0.1, help="--server: wait for answers after the last request.")] = 60.0,
    served_model: Annotated[str | None, typer.Option(help="--server: what requests name; its first model.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the trials that the study holds.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace the study and the results.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find the best fixed limits, hold them against references, also on seeds not tuned on, and write what to paste."""
    refuse_unused(context)
    how = {"format": trace_format, "columns": columns, "rate": rate, "start_s": start_s, "duration_s": duration_s}
    source = Source(scenario_name, trace, how, backend)
    changes = Changes(device, model, tensor_parallel, dtype, parameters, ttft_ms, tpot_ms, prefix_cache)
    kept = Kept(out, resume, overwrite)
    if server_name is not None:
        launch = Launch(server_name, command or [], served_model, start_timeout_s, grace_s)
        bounds = Bounds(trials if was_given(context, "trials") else MOST_STARTS, minutes)
        tune_server(of_server(launch, source, changes, track, bounds, first_seed, kept), as_json=as_json)
        return
    server = chosen_server(backend, changes, threads, kv_capacity_tokens, simulated_only(context))
    sought = Sought(track, sampler, objective, trials, prior, grid)
    check_search(context, sought, simulated=server is None)
    from batchpilot.runners.tuning.engine import Running, Study, tune_engine

    benches = benches_of(server, source.scenario(), changes, objective, first_seed, requests)
    bars = Bars(min_attainment, max_memory, max_refused)
    study = Study.of(sought, Seeds(first_seed, seeds, check_seeds), bars, simulated=server is None)
    folder = kept.folder(source.label(benches.scenario), track)
    tune_engine(benches, study, Running(backend, folder, storage, jobs, cluster, resume, overwrite), as_json=as_json)

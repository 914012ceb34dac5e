"""`batchpilot fleet`: which router, which scaler, how many replicas; every way on the same requests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchpilot.envs.fleet.splitting import LINK_GB_PER_S, LINK_MS
from batchpilot.fleet.routers import RULES
from batchpilot.runners.fleet.comparison import Comparison, Growing, parse_replicas, ways_of
from batchpilot.runners.fleet.options import (
    LimitsOption,
    LoadOption,
    PollOption,
    PrefillOption,
    ReplicasOption,
    ScaleOption,
    ScalerOption,
    ScenarioArgument,
    TunerOption,
)
from batchpilot.runners.fleet.strategies import NONE, SPLIT
from batchpilot.runners.fleet.telling import show, show_json
from batchpilot.runners.options import (
    CatalogueOption,
    ColumnsOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    PrefixCacheOption,
    TensorParallelOption,
    TpotOption,
    TraceFormatOption,
    TtftOption,
    refuse,
    reporting_mistakes,
)
from batchpilot.runners.selection import Changes, find_scenario, parse_limits, replay_of


@reporting_mistakes
def fleet(
    context: typer.Context,
    scenario: ScenarioArgument = "quick-chat",
    trace: Annotated[Path | None, typer.Option(help="Replay this trace to the whole fleet instead.")] = None,
    trace_format: TraceFormatOption = None,
    columns: ColumnsOption = None,
    replicas: ReplicasOption = None,
    router: Annotated[list[str] | None, typer.Option("--router", help=f"{', '.join(RULES)}; all unless given.")] = None,
    poll_ms: PollOption = None,
    count_sent: Annotated[bool, typer.Option(help="Routers count what they sent since the last poll.")] = True,
    scaler: ScalerOption = None,
    prefill: PrefillOption = None,
    link_gb_per_s: Annotated[float, typer.Option(help="At which a replica sends or takes KV.")] = LINK_GB_PER_S,
    link_ms: Annotated[float, typer.Option(min=0, help="From the last byte until decoding may begin.")] = LINK_MS,
    scale: ScaleOption = None,
    least: Annotated[int, typer.Option(min=1, help="Fewest replicas under a scaler.")] = 1,
    most: Annotated[int, typer.Option(min=1, help="Most replicas under a scaler.")] = 8,
    startup_s: Annotated[float, typer.Option(min=0, help="Until a replica that is added serves.")] = 60.0,
    load: LoadOption = None,
    tuner: TunerOption = "guarded-default",
    limits: LimitsOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of workload, noise and draws.")] = 3,
    device: DeviceOption = None,
    catalogue: CatalogueOption = None,
    model: ModelOption = None,
    tensor_parallel: TensorParallelOption = None,
    ttft_ms: TtftOption = None,
    tpot_ms: TpotOption = None,
    prefix_cache: PrefixCacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare routers and scalers of a fleet: goodput, latency and cost of each on the same requests."""
    if trace is None:
        refuse(context, "without --trace", "trace_format", "columns")
    if prefill is None:
        refuse(context, "without --prefill", "link_gb_per_s", "link_ms")
    ways = ways_of(router, poll_ms, scaler, splits=prefill is not None)
    named = find_scenario(scenario) if trace is None else replay_of(trace, format=trace_format, columns=columns)
    chosen = Changes(device, model, tensor_parallel, None, None, ttft_ms, tpot_ms, prefix_cache).of(named)
    kinds = parse_replicas(replicas or ["4"], chosen.device)
    parted = None if prefill is None else dict(parse_replicas(prefill, chosen.device))
    if {way.scaler for way in ways} <= {NONE, SPLIT}:
        refuse(context, "without --scaler", "scale")
    growing = Growing(least, most, startup_s, None if scale is None else dict(parse_replicas(scale, chosen.device)))
    constant = None if limits is None else parse_limits(limits)
    comparison = Comparison(chosen, kinds, parted, growing, constant, tuner, load, count_sent, link_gb_per_s, link_ms)
    runs, offered = comparison.run(ways, seeds)
    stated = comparison.stated(offered) | {"strategy": limits or tuner, "seeds": seeds}
    if as_json:
        show_json(runs, stated)
    else:
        show(runs, stated)

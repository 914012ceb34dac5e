"""`batchpilot compare`: the tuner document's table, and its regression gate."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from batchpilot.configs.scenario import scenario
from batchpilot.core.files import json_text
from batchpilot.envs.backends import SIMULATED
from batchpilot.runners.leaderboard.comparison import (
    CONCURRENCIES,
    STRATEGIES,
    Row,
    compare,
    load_baseline,
    regressions,
    save_baseline,
)
from batchpilot.runners.leaderboard.options import BaselineOption, SaveBaselineOption
from batchpilot.runners.options import (
    CatalogueOption,
    ConfigOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    ParametersOption,
    TensorParallelOption,
    TpotOption,
    TtftOption,
    reporting_mistakes,
    stdout_console,
)
from batchpilot.runners.report.grids import number
from batchpilot.runners.selection import Changes, find_tuner_config
from batchpilot.runners.torch.backends import (
    BackendOption,
    chosen_server,
    shown_calibration,
    start_backend,
)
from batchpilot.runners.torch.options import KvOption, ThreadsOption


@reporting_mistakes
def compare_command(
    tuners: Annotated[str, typer.Option(help="Strategies, separated by commas.")] = ",".join(STRATEGIES),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds that are averaged.")] = 5,
    config: ConfigOption = None,
    device: DeviceOption = None,
    catalogue: CatalogueOption = None,
    model: ModelOption = None,
    tensor_parallel: TensorParallelOption = None,
    backend: BackendOption = SIMULATED,
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    kv_capacity_tokens: KvOption = None,
    parameters: ParametersOption = None,
    ttft_ms: TtftOption = None,
    tpot_ms: TpotOption = None,
    baseline: BaselineOption = None,
    save: SaveBaselineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Static 8, 16, 32 and 64 against dynamic: concurrency 8 to 32, 72 requests, 50 new tokens each."""
    chosen = find_tuner_config(config)
    changes = Changes(device, model, tensor_parallel, dtype, parameters, ttft_ms, tpot_ms)
    simulated_only = {"--tensor-parallel": tensor_parallel is not None}
    server = chosen_server(backend, changes, threads, kv_capacity_tokens, simulated_only)
    strategies = [name.strip() for name in tuners.split(",")]
    if server is None:
        scenarios = [changes.of(scenario(f"closed-loop-{clients}")) for clients in CONCURRENCIES]
        rows = compare(scenarios, strategies, seeds, chosen)
    else:
        asked = changes.without_hardware()
        scenarios = [asked.of(scenario(f"torch-closed-loop-{clients}")) for clients in CONCURRENCIES]
        engine = start_backend(server, parameters=parameters, show=shown_calibration)
        rows = compare(scenarios, strategies, seeds, chosen, engine)
    found = regressions(rows, load_baseline(baseline)) if baseline is not None else []
    if save is not None:
        save_baseline(save, rows, chosen, seeds)
    if as_json:
        typer.echo(json_text({"rows": rows, "regressions": found}, indent=2))
    else:
        stdout_console().print(_table(rows))
        for sentence in found:
            typer.secho(f"regression: {sentence}", err=True, fg=typer.colors.RED)
        if baseline is not None and not found:
            typer.echo(f"no regression against {baseline}")
    if found:
        raise typer.Exit(1)


def _table(rows: list[Row]) -> Table:
    told = {
        f"{row['model']} ({row['dtype']}) on {row['tensor_parallel']} x {row['device']}, promised {row['promise']}; "
        f"latency {row['latency']}": None
        for row in rows
    }
    table = Table(title="Closed loop: 72 requests, 50 new tokens each", caption="\n".join(told), caption_justify="left")
    for column in ("scenario", "tuner"):
        table.add_column(column)
    for column in (
        "tokens/s",
        "utilisation",
        "e2e p50, p95, p99 ms",
        "success",
        "within SLO",
        "told no p95 ms",
        "vs static-8",
        "vs best static",
        "score",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["scenario"],
            row["tuner"],
            f"{row['throughput_tokens_per_s']:.1f}",
            f"{row['utilisation']:.3f}",
            ", ".join(f"{row[f'e2e_p{q}_ms']:.0f}" for q in (50, 95, 99)),
            f"{row['success_rate']:.4f}",
            f"{row['slo_attainment']:.3f}",
            number(row["refusal_p95_ms"]),
            f"{row['ratio_to_static_8']:.3f}",
            f"{row['ratio_to_best_static']:.3f}",
            number(row["spec_score"]),
            end_section=row is rows[-1] or rows[rows.index(row) + 1]["scenario"] != row["scenario"],
        )
    return table

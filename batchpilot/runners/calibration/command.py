"""`batchpilot calibrate`: measured steps in, latency parameters out, with how far to trust them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from batchpilot.core.files import json_text
from batchpilot.latency.fitting.observations import LOWEST_MS
from batchpilot.latency.fitting.residuals import LOSSES
from batchpilot.runners.calibration.asking import LARGEST_BATCH, LARGEST_PROMPT
from batchpilot.runners.calibration.calibrating import LONGEST_STEP_MS, calibrate_files, calibrate_server
from batchpilot.runners.calibration.options import (
    ColumnsOption,
    EngineOption,
    FilesArgument,
    LargestBatchOption,
    LargestPromptOption,
    TensorParallelOption,
    UrlOption,
)
from batchpilot.runners.calibration.telling import show, write_parameters
from batchpilot.runners.calibration.typed import (
    check_files,
    check_source,
    engine_server,
    fixed_of,
    labels_of,
    pairs_of,
)
from batchpilot.runners.options import JsonOption, reporting_mistakes
from batchpilot.runners.selection import parse_limits
from batchpilot.runners.torch.calibration import MEASURED_LIMITS, calibrate_engine, write_steps
from batchpilot.runners.torch.options import (
    REPEATS,
    TRIALS,
    DtypeOption,
    KvOption,
    LimitsOption,
    RepeatsOption,
    ThreadsOption,
    TrialsOption,
    shown,
)


@reporting_mistakes
def calibrate(
    context: typer.Context,
    files: FilesArgument = None,
    measurements: Annotated[Path | None, typer.Option(help="One more such file.")] = None,
    columns: ColumnsOption = None,
    device: Annotated[str | None, typer.Option(help="Only rows of this device; a label where no column says.")] = None,
    model: Annotated[str | None, typer.Option(help="Only rows of this model; a label where no column says.")] = None,
    tensor_parallel: TensorParallelOption = None,
    loss: Annotated[str, typer.Option(help=f"What is minimised: {', '.join(LOSSES)}.")] = "relative",
    robust: Annotated[bool, typer.Option(help="Hold outliers back.")] = True,
    fix: Annotated[str | None, typer.Option(help="Parameters that are not fitted: tau_c=0,k_b=10.")] = None,
    min_ms: Annotated[float, typer.Option(help="Drop steps as short or shorter.")] = LOWEST_MS,
    max_ms: Annotated[float, typer.Option(help="Drop steps as long or longer.")] = LONGEST_STEP_MS,
    seed: Annotated[int, typer.Option(help="Of the fit's random starts.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the parameters to this YAML file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a report with charts to this HTML file.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace files that are there.")] = False,
    engine: EngineOption = None,
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = None,
    kv_capacity_tokens: KvOption = None,
    limits: LimitsOption = None,
    trials: TrialsOption = TRIALS,
    repeats: RepeatsOption = REPEATS,
    url: UrlOption = None,
    api_key: Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="Bearer token of --url.")] = None,
    chat: Annotated[bool, typer.Option(help="Ask --url in conversations.")] = False,
    largest_batch: LargestBatchOption = LARGEST_BATCH,
    largest_prompt: LargestPromptOption = LARGEST_PROMPT,
    minutes: Annotated[float, typer.Option(min=0, help="How long --url is asked, at least one round.")] = 3.0,
    steps: Annotated[Path | None, typer.Option(help="Write the measured steps to this CSV file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit the latency model to measured steps, hold it against simpler ones, and say how far to trust it."""
    measured_files = [*(files or ()), *([] if measurements is None else [measurements])]
    check_source(context, measured_files)
    check_files(context, out, report, steps, overwrite=overwrite)
    how: dict[str, Any] = {"lowest_ms": min_ms, "highest_ms": max_ms, "loss": loss, "robust": robust, "seed": seed}
    how |= {"fixed": fixed_of(fix)}
    if measured_files:
        select = labels_of(device=device, model=model, tensor_parallel=tensor_parallel)
        found = calibrate_files(*measured_files, columns=pairs_of(columns, "--columns"), select=select, **how)
    elif url is not None:
        labels = labels_of(device=device, tensor_parallel=tensor_parallel)
        found, measured = calibrate_server(
            url, labels, model=model, api_key=api_key, chat=chat, largest_batch=largest_batch,
            largest_prompt=largest_prompt, minutes=minutes, show=lambda text: typer.echo(text, err=True), **how,
        )  # fmt: skip
    else:
        server = engine_server(str(engine), model, device, dtype, threads, kv_capacity_tokens, seed)
        largest = parse_limits(limits) if limits is not None else MEASURED_LIMITS
        found, measured = calibrate_engine(
            server, largest, trials=trials, repeats=repeats, show=lambda runs: shown(runs, trials * repeats), **how
        )
    if steps is not None:
        write_steps(steps, measured)
    if as_json:
        typer.echo(json_text(found.to_dict(), indent=2))
    else:
        show(found)
    if out is not None:
        write_parameters(out, found)
    if report is not None:
        from batchpilot.runners.calibration.report import write_calibration_report

        write_calibration_report(report, found)

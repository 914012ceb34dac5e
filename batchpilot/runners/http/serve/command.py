"""`batchpilot serve`: the reference server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchpilot.configs.tenants import tenants_file
from batchpilot.runners.http.serve.asked import Decides, promised
from batchpilot.runners.http.serve.options import (
    BatchDirOption,
    DraftModelOption,
    HostOption,
    LatencyStageOption,
    LimitsOption,
    ParametersOption,
    PrefixCacheOption,
    ServedModelOption,
    TimeoutOption,
    TokenFileOption,
    TrackOption,
    TunerOption,
    VisionOption,
)
from batchpilot.runners.http.tokens import chosen_token
from batchpilot.runners.options import ConfigOption, TenantsOption, reporting_mistakes
from batchpilot.serving.doors.origins import check_binding


@reporting_mistakes
def serve(
    context: typer.Context,
    model: ServedModelOption,
    tuner: TunerOption = None,
    track: TrackOption = "guarded",
    config: ConfigOption = None,
    limits: LimitsOption = None,
    parameters: ParametersOption = None,
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port, 0 for any that is free.")] = 8000,
    token_file: TokenFileOption = None,
    name: Annotated[str | None, typer.Option("--served-name", help="What clients call the model.")] = None,
    torch_device: Annotated[str, typer.Option("--torch-device", help="Where the model runs.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float16 or int8.")] = "float32",
    kv_dtype: Annotated[str, typer.Option("--kv-dtype", help="Of the KV cache: auto, int8, fp8.")] = "auto",
    draft_model: DraftModelOption = None,
    kv_tokens: Annotated[int | None, typer.Option("--kv-tokens", min=16, help="KV tokens to set aside.")] = None,
    max_model_len: Annotated[int | None, typer.Option("--max-model-len", min=2, help="Longest request.")] = None,
    prefix_cache: PrefixCacheOption = False,
    vision: VisionOption = False,
    tenants: TenantsOption = None,
    latency_stage: LatencyStageOption = "full",
    room: Annotated[int, typer.Option("--room", min=1, help="Most requests at a time.")] = 1024,
    window_ms: Annotated[float, typer.Option("--window-ms", min=1, help="Length of a measurement window.")] = 1000.0,
    slo: Annotated[str, typer.Option("--slo", help="Promise of requests that name none.")] = "interactive",
    ttft_ms: Annotated[float | None, typer.Option("--ttft-ms", help="TTFT target instead of the class's.")] = None,
    tpot_ms: Annotated[float | None, typer.Option("--tpot-ms", help="TPOT target instead of the class's.")] = None,
    timeout_s: TimeoutOption = 600.0,
    grace_s: Annotated[float, typer.Option("--grace", min=0, help="Seconds to finish requests after SIGTERM.")] = 20.0,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of torch on a processor.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of random weights, draws and tuners.")] = 0,
    batch_dir: BatchDirOption = None,
) -> None:
    """Serve a model by OpenAI's API, its batching limits set by a tuner."""
    promise = promised(context, slo, ttft_ms, tpot_ms)
    decides = Decides.of(context, tuner, config, limits, parameters)
    token = chosen_token(token_file)
    terms = tenants_file(tenants) if tenants else {}
    from batchpilot.engines.torch import TorchEngineConfig
    from batchpilot.runners.http.serve.starting import Weights, run, telemetry_of
    from batchpilot.serving.server.building import build_service
    from batchpilot.serving.server.config import ServerConfig

    check_binding(host, token)
    typer.echo("loading; the first start of an installation also compiles, for about half a minute", err=True)
    weights = Weights(model, torch_device, threads, dtype, kv_dtype, kv_tokens, vision, draft_model, seed)
    text, runner = weights.load()
    setting = decides.setting(promise, runner, seed)
    answers = ServerConfig(
        name or Path(model).name,
        promise,
        timeout_s=timeout_s,
        grace_s=grace_s,
        token=token,
        seed=seed,
        batch_folder=batch_dir,
        vision=vision,
    )
    service = build_service(
        runner,
        text,
        answers,
        tuner=decides.tuner,
        setting=setting,
        engine_config=TorchEngineConfig(
            max_model_len=max_model_len, prefix_cache=prefix_cache, tenants=terms, seed=seed
        ),
        window_ms=window_ms,
        room=room,
        telemetry=telemetry_of(runner),
    )
    run(service, host, port, decides.tuner)

"""`batchpilot serve`: the reference server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.configs.tenants import tenants_file
from batchpilot.core.names import lookup
from batchpilot.core.slo import SLO, SLO_CLASSES
from batchpilot.engines.loading import load_runner
from batchpilot.latency.model.parameter_file import read_parameters
from batchpilot.runners.completion import completing
from batchpilot.runners.http.tokens import TOKEN_VARIABLE, chosen_token
from batchpilot.runners.options import TenantsOption, refuse, reporting_mistakes, stdout_console
from batchpilot.runners.selection import check_promise, chosen_tuner, find_tuner_config, parse_limits
from batchpilot.serving.doors.origins import check_binding
from batchpilot.serving.interpreter import keep_what_is_loaded
from batchpilot.serving.rollout.control import make_setting
from batchpilot.tuners import DEFAULT_TUNER


@reporting_mistakes
def serve(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Option("--model", help="A preset with random weights, smollm2-135m of a package, or a model's folder."),
    ],
    tuner: Annotated[
        str | None,
        typer.Option(
            "--tuner",
            help="Sets the limits: hybrid, model-based, policy:FILE.onnx, ...; else the strategy of --config, else "
            f"{DEFAULT_TUNER}.",
            autocompletion=completing("tuners"),
        ),
    ] = None,
    track: Annotated[
        str, typer.Option("--track", help="Which limits it may move: batch, limits, guarded.")
    ] = "guarded",
    config: Annotated[str | None, typer.Option("--config", help="Tuner configuration: a preset or a file.")] = None,
    limits: Annotated[
        str | None, typer.Option("--limits", help="Constant limits instead: batch_size=64,ttft_guard=1.0, or a file.")
    ] = None,
    parameters: Annotated[
        Path | None, typer.Option(help="What `calibrate --out` wrote, instead of an estimate of the warm-up.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to bind to; others than loopback need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port, 0 for any that is free.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help=f"File with the token for changes; else ${TOKEN_VARIABLE}.")
    ] = None,
    name: Annotated[str | None, typer.Option("--served-name", help="What clients call the model.")] = None,
    torch_device: Annotated[str, typer.Option("--torch-device", help="Where the model runs.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float16 or int8.")] = "float32",
    kv_dtype: Annotated[str, typer.Option("--kv-dtype", help="Of the KV cache: auto, int8, fp8.")] = "auto",
    draft_model: Annotated[
        str | None, typer.Option("--draft-model", help="Drafts for speculative_tokens; without it prompt lookup does.")
    ] = None,
    kv_tokens: Annotated[int | None, typer.Option("--kv-tokens", min=16, help="KV tokens to set aside.")] = None,
    max_model_len: Annotated[int | None, typer.Option("--max-model-len", min=2, help="Longest request.")] = None,
    prefix_cache: Annotated[
        bool, typer.Option("--prefix-cache", help="Compute equal beginnings of prompts once.")
    ] = False,
    vision: Annotated[
        bool, typer.Option("--vision", help="Take images in messages; a small tower with random weights encodes them.")
    ] = False,
    tenants: TenantsOption = None,
    latency_stage: Annotated[
        str, typer.Option("--latency-stage", help="Belief in learned step latency: offline, shadow, partial, full.")
    ] = "full",
    room: Annotated[int, typer.Option("--room", min=1, help="Most requests at a time.")] = 1024,
    window_ms: Annotated[float, typer.Option("--window-ms", min=1, help="Length of a measurement window.")] = 1000.0,
    slo: Annotated[str, typer.Option("--slo", help="Promise of requests that name none.")] = "interactive",
    ttft_ms: Annotated[float | None, typer.Option("--ttft-ms", help="TTFT target instead of the class's.")] = None,
    tpot_ms: Annotated[float | None, typer.Option("--tpot-ms", help="TPOT target instead of the class's.")] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds after which requests are given up.")
    ] = 600.0,
    grace_s: Annotated[float, typer.Option("--grace", min=0, help="Seconds to finish requests after SIGTERM.")] = 20.0,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of torch on a processor.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of random weights, draws and tuners.")] = 0,
    batch_dir: Annotated[
        Path | None, typer.Option("--batch-dir", help="Folder of the Batch API's files; without it there is none.")
    ] = None,
) -> None:
    """Serve a model by OpenAI's API, its batching limits set by a tuner."""
    of_class = lookup(SLO_CLASSES, slo, "SLO class")
    check_promise(ttft_ms, tpot_ms)
    if ttft_ms is not None and tpot_ms is not None:
        refuse(context, "with --ttft-ms and --tpot-ms", "slo")
    promise = SLO(
        of_class.ttft_ms if ttft_ms is None else ttft_ms, of_class.tpot_ms if tpot_ms is None else tpot_ms, slo
    )
    if limits is not None:
        refuse(context, "with --limits", "tuner", "track", "config", "parameters")
        tuner = "static"
    constant = SERVER_DEFAULT if limits is None else parse_limits(limits)
    tuner_config = find_tuner_config(config)
    tuner = chosen_tuner(tuner, config, tuner_config, DEFAULT_TUNER)
    known = None if parameters is None else read_parameters(parameters).parameters
    token = chosen_token(token_file)
    terms = tenants_file(tenants) if tenants else {}
    from batchpilot.engines import detect_device
    from batchpilot.engines.torch import Telemetry, TorchEngineConfig
    from batchpilot.engines.torch.telemetry import source_of
    from batchpilot.serving.server.building import build_service
    from batchpilot.serving.server.config import ServerConfig
    from batchpilot.serving.server.running import make_server
    from batchpilot.serving.server.text import load_text

    check_binding(host, token)
    typer.echo("loading; the first start of an installation also compiles, for about half a minute", err=True)
    text = load_text(model)
    runner = load_runner(
        model,
        device=torch_device,
        threads=threads,
        dtype=dtype,
        kv_dtype=kv_dtype,
        kv_capacity_tokens=kv_tokens,
        vision=vision,
        draft_model=draft_model,
        seed=seed,
    )
    setting = make_setting(
        tuner_config,
        slo=promise,
        seed=seed,
        track=track,
        latency=known or runner.latency,
        latency_stage=latency_stage,
        memory=runner.memory,
    )
    service = build_service(
        runner,
        text,
        ServerConfig(
            name or Path(model).name,
            promise,
            timeout_s=timeout_s,
            grace_s=grace_s,
            token=token,
            seed=seed,
            batch_folder=batch_dir,
            vision=vision,
        ),
        tuner=tuner,
        setting=replace(setting, base=constant),
        engine_config=TorchEngineConfig(
            max_model_len=max_model_len, prefix_cache=prefix_cache, tenants=terms, seed=seed
        ),
        window_ms=window_ms,
        room=room,
        telemetry=Telemetry(source_of(runner.device)) if runner.device.type == "cuda" else None,
    )

    def tell(bound_port: int) -> None:
        where = f"http://{f'[{host}]' if ':' in host else host}:{bound_port}"
        stdout_console().print(
            f"{service.config.model} on {where}, limits by {tuner}: {service.session.limits()}",
            highlight=False,
            soft_wrap=True,
        )

    server = make_server(service, host=host, port=port, device=detect_device(), on_start=tell, apart=True)
    keep_what_is_loaded()
    server.run()

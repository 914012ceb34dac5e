"""Options of `batchpilot serve` that need more than a line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchpilot.runners.completion import completing
from batchpilot.runners.http.tokens import TOKEN_VARIABLE
from batchpilot.tuners import DEFAULT_TUNER

ServedModelOption = Annotated[
    str,
    typer.Option("--model", help="A preset with random weights, smollm2-135m of a package, or a model's folder."),
]
TunerOption = Annotated[
    str | None,
    typer.Option(
        "--tuner",
        help="Sets the limits: hybrid, model-based, policy:FILE.onnx, ...; else the strategy of --config, else "
        f"{DEFAULT_TUNER}.",
        autocompletion=completing("tuners"),
    ),
]
TrackOption = Annotated[str, typer.Option("--track", help="Which limits it may move: batch, limits, guarded.")]
LimitsOption = Annotated[
    str | None, typer.Option("--limits", help="Constant limits instead: batch_size=64,ttft_guard=1.0, or a file.")
]
ParametersOption = Annotated[
    Path | None,
    typer.Option("--parameters", help="What `calibrate --out` wrote, instead of an estimate of the warm-up."),
]
HostOption = Annotated[str, typer.Option("--host", help="Address to bind to; others than loopback need a token.")]
TokenFileOption = Annotated[
    Path | None, typer.Option("--token-file", help=f"File with the token for changes; else ${TOKEN_VARIABLE}.")
]
DraftModelOption = Annotated[
    str | None, typer.Option("--draft-model", help="Drafts for speculative_tokens; without it prompt lookup does.")
]
PrefixCacheOption = Annotated[bool, typer.Option("--prefix-cache", help="Compute equal beginnings of prompts once.")]
VisionOption = Annotated[
    bool, typer.Option("--vision", help="Take images in messages; a small tower with random weights encodes them.")
]
LatencyStageOption = Annotated[
    str, typer.Option("--latency-stage", help="Belief in learned step latency: offline, shadow, partial, full.")
]
TimeoutOption = Annotated[float, typer.Option("--timeout", min=0, help="Seconds after which requests are given up.")]
BatchDirOption = Annotated[
    Path | None, typer.Option("--batch-dir", help="Folder of the Batch API's files; without it there is none.")
]

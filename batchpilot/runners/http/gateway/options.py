"""Options of `batchpilot gateway` that need more than a line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchpilot.core.slo import SLO
from batchpilot.runners.completion import completing
from batchpilot.runners.http.gateway.upstreams import GATEWAY_SCALERS
from batchpilot.runners.http.tokens import TOKEN_VARIABLE

PROMISE = SLO()
"""Of requests that name no class, where no other is typed."""

UpstreamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--upstream", help="The server's address; of several one each: http://127.0.0.1:8000,weight=2,version=1,tier=1."
    ),
]
UpstreamsOption = Annotated[
    Path | None, typer.Option("--upstreams", help="YAML file with the servers instead, as the page says.")
]
TunerOption = Annotated[
    str | None,
    typer.Option(
        "--tuner",
        help="A strategy, policy:FILE.onnx or FILE.py:CLASS, as in the leaderboard.",
        autocompletion=completing("tuners"),
    ),
]
TtftOption = Annotated[
    float, typer.Option("--ttft-ms", help="Promised time to first token, of requests that name no class.")
]
ParametersOption = Annotated[
    Path | None, typer.Option("--parameters", help="What `calibrate --out` wrote: where a tuner's estimate begins.")
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option("--tokenizer", help="A tokenizer.json to count prompts with; else a quarter of their bytes."),
]
CacheTokensOption = Annotated[
    int | None,
    typer.Option(
        "--cache-tokens", help="The server's KV cache, if it fails when that is full: llama.cpp's --ctx-size."
    ),
]
LiveLimitsOption = Annotated[
    bool, typer.Option("--live-limits", help="Tell the server itself the limits, where it can be told as it runs.")
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file", help=f"File with the token for changes of the tuner and of recordings; else ${TOKEN_VARIABLE}."
    ),
]
RecordOption = Annotated[
    Path | None, typer.Option("--record", help="Write the server's steps to this CSV file, which `calibrate` reads.")
]
RecordMbOption = Annotated[
    float,
    typer.Option("--record-mb", help="Of that file and the one before it together; half full, it becomes NAME.1.csv."),
]
LateLogOption = Annotated[
    Path | None,
    typer.Option("--late-log", help="Write requests that were late or failed, and why, to this file of JSON lines."),
]
OneEngineOption = Annotated[
    bool, typer.Option("--one-engine", help="All models of the server share one engine, whatever it lists.")
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option("--api-key", envvar="BATCHPILOT_UPSTREAM_KEY", help="Bearer token to list the server's models with."),
]
HealthOption = Annotated[
    float, typer.Option("--health-s", min=0, help="Between health checks of several upstreams, 0 for none.")
]
BreakerOption = Annotated[
    str, typer.Option("--breaker", help="Failures in a row, and s that an upstream is left alone then.")
]
DegradeOption = Annotated[
    float,
    typer.Option(
        "--degrade", help="Multiple of the TTFT promise beyond which tier 1 answers, if all of tier 0 is so late."
    ),
]
CanaryOption = Annotated[
    str | None, typer.Option("--canary", help="Roll a version out to a growing share of the users: OLD,NEW, as 1,2.")
]
ScalerOption = Annotated[
    str, typer.Option("--scaler", help=f"Decides batchpilot_desired_replicas: {', '.join(GATEWAY_SCALERS)}.")
]
ReplicaTokensOption = Annotated[
    float | None,
    typer.Option(
        "--replica-tokens-per-s", help="What one upstream serves within its promise, for --scaler predictive."
    ),
]

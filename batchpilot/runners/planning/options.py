"""Options of `batchpilot plan` that need more than a line."""

from __future__ import annotations

from typing import Annotated

import typer

from batchpilot.latency.model.vision_tower import TOWERS
from batchpilot.runners.planning.weight_types import PREFERENCES

WorkloadOption = Annotated[
    str,
    typer.Option(
        "--workload",
        help="azure-conv, azure-code, prompt,output in tokens, a scenario's name or file, or a trace.",
    ),
]
TowerOption = Annotated[
    str | None,
    typer.Option("--tower", help=f"What encodes images: {', '.join(TOWERS)}; else as the scenario says."),
]
PipelineParallelOption = Annotated[
    int,
    typer.Option("--pipeline-parallel", min=1, help="Stages that the layers are cut into; as many batches in flight."),
]
WeightTypeOption = Annotated[
    str | None,
    typer.Option("--dtype", help="Type of the weights: fp16, fp8, int8, int4, nvfp4, mxfp4; else as published."),
]
PreferOption = Annotated[
    str,
    typer.Option("--prefer", help=f"What comes first where 16 bits do not fit: {', '.join(PREFERENCES)}."),
]
GrowthOption = Annotated[
    str | None,
    typer.Option("--growth", help="Growth of the rate a month, 8%, or a CSV file of past rates: date,rate_per_s."),
]

"""Options of `batchpilot calibrate` that need more than a line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchpilot.runners.calibration.asking import SHORTEST_PROMPT
from batchpilot.runners.torch.calibration import ENGINES

FilesArgument = Annotated[
    list[Path] | None,
    typer.Argument(help="CSV: batch_size, tokens, latency_ms and perhaps context_tokens; or Splitwise's."),
]
ColumnsOption = Annotated[
    str | None,
    typer.Option("--columns", help="What the file calls them: batch_size=B,tokens=S,latency_ms=T,context_tokens=C."),
]
TensorParallelOption = Annotated[
    int | None,
    typer.Option("--tensor-parallel", min=1, help="Only rows of so many devices; a label where no column says."),
]
EngineOption = Annotated[
    str | None,
    typer.Option("--engine", help=f"Measure on an engine instead of reading a file: {', '.join(ENGINES)}."),
]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="Measure a running OpenAI-compatible server that serves nobody else meanwhile."),
]
LargestBatchOption = Annotated[
    int, typer.Option("--largest-batch", min=1, help="Most requests at a time that --url is sent.")
]
LargestPromptOption = Annotated[
    int,
    typer.Option(
        "--largest-prompt",
        min=SHORTEST_PROMPT,
        help="Longest prompt sent to --url; one that a single step computes.",
    ),
]

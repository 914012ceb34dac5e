"""A model runner from what people type. Outside the folder `torch`, whose import asks for the extra of that name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchpilot.core.extras import needing

if TYPE_CHECKING:
    from batchpilot.engines.torch import ModelRunner


def load_runner(
    model: str | Path, *, device: str | None = None, threads: int | None = None, **options: Any
) -> ModelRunner:
    """Load a model and warm it up; torch is imported here.

    Args:
        model: a preset, a folder or a name that transformers knows.
        device: torch device; None for "cuda" where there is one, else "cpu".
        threads: processor threads of torch, None leaves them as they are.
        **options: further arguments of `ModelRunner`: dtype, kv_capacity_tokens, seed and so on.

    Raises:
        MissingExtraError: torch is missing.
        ValueError: the model cannot be served as asked.
    """
    with needing("the torch engine", "torch"):
        import torch

        from batchpilot.engines.torch import ModelRunner
    if threads is not None:
        torch.set_num_threads(threads)
    return ModelRunner(model, device=device or ("cuda" if torch.cuda.is_available() else "cpu"), **options)

"""A model runner from what people type, with the mistake of a missing torch told in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        ValueError: torch is missing, or the model cannot be served as asked.
    """
    try:
        import torch

        from batchpilot.engines.torch import ModelRunner
    except ImportError as error:
        raise ValueError(str(error)) from None
    if threads is not None:
        torch.set_num_threads(threads)
    return ModelRunner(model, device=device or ("cuda" if torch.cuda.is_available() else "cpu"), **options)

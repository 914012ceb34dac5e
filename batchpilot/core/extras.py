"""Optional packages: what comes with which extra of batchpilot, and one way to say that one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

EXTRAS: dict[str, tuple[str, ...]] = {
    "torch": ("torch", "transformers", "safetensors"),
    "rl": ("stable_baselines3", "torch", "onnx", "onnxruntime", "optuna", "pettingzoo", "tensorboard"),
    "tune": ("optuna", "cmaes"),
    "serve": ("fastapi", "httptools", "httpx", "onnxruntime", "prometheus_client", "tokenizers", "uvicorn", "uvloop"),
    "structured": ("llguidance",),
    "ray": ("ray",),
    "litserve": ("litserve",),
    "vllm": ("vllm",),
    "devices": ("aiconfigurator_core",),
}
"""Modules that come with each extra of `pyproject.toml`, those they bring along included where we import them."""


class MissingExtraError(ImportError, ValueError):
    """A package is not installed; the message names it and the extra that brings it.

    Also a ValueError: to ask for what is not installed is a mistake that a command tells in one line.
    """


@contextmanager
def needing(what: str, *extras: str) -> Iterator[None]:
    """Within it stand the imports of optional packages; one that is missing is told with the extra that brings it.

    Args:
        what: what needs them, as the subject of a sentence: "the reference server".
        *extras: keys of `EXTRAS`, the most likely first.

    Raises:
        MissingExtraError: an import failed; one told already goes through as it is.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        raise missing_extra(what, error, *extras) from error


def missing_extra(what: str, error: ImportError, *extras: str) -> MissingExtraError:
    """The error to raise for a failed import.

    Args:
        what: what needs the package.
        error: of the import.
        *extras: keys of `EXTRAS` that `what` needs, the most likely first.
    """
    package = (error.name or "").partition(".")[0]
    bringing = [extra for extra in extras if package in EXTRAS[extra]]
    hint = f"pip install 'batchpilot[{','.join(bringing[:1] or extras)}]'"
    if isinstance(error, ModuleNotFoundError) and package:
        told = f"{what} needs the package {package}, which is not installed; it comes with: {hint}"
    else:
        told = f"{what} cannot import what it needs ({error}); it comes with: {hint}"
    return MissingExtraError(told, name=error.name, path=error.path)

"""What `batchpilot calibrate` was told: which of its three sources, and how it fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from batchpilot.runners.options import refuse
from batchpilot.runners.torch.calibration import TorchServer, named_engine


def check_source(context: typer.Context, files: Sequence[Path]) -> None:
    """Make sure that there is one source of measurements, and that no option is for another.

    Args:
        context: of the command.
        files: of measurements.

    Raises:
        ValueError: no source or several, or an option that would change nothing.
    """
    engine, url = context.params["engine"], context.params["url"]
    if (files or None, engine, url).count(None) != 2:
        raise ValueError(
            "give one of these: measurements, FILE.csv or --measurements FILE.csv; an engine to measure, "
            "--engine torch --model; or a running server, --url http://127.0.0.1:8000"
        )
    if engine is None:
        refuse(context, "without --engine", "dtype", "threads", "kv_capacity_tokens", "limits", "trials", "repeats")
    if url is None:
        refuse(context, "without --url", "api_key", "chat", "largest_batch", "largest_prompt", "minutes")
    if files:
        refuse(context, "with files of measurements", "steps")
    if engine is not None:
        refuse(context, "with --engine", "columns", "tensor_parallel")
    if url is not None:
        refuse(context, "with --url", "columns")


def check_files(context: typer.Context, *written: Path | None, overwrite: bool) -> None:
    """Make sure that no file is replaced without being told.

    Args:
        context: of the command.
        *written: files that will be written, None for those that will not.
        overwrite: whether those that are there are replaced.

    Raises:
        ValueError: one is there, or there is nothing to replace.
    """
    if not any(written):
        refuse(context, "without --out, --report or --steps", "overwrite")
    for path in written:
        if path is not None and path.exists() and not overwrite:
            raise ValueError(f"{path} is there already; add --overwrite, or give another name")


def labels_of(**typed: str | int | None) -> dict[str, str]:
    """What was measured, as far as somebody said.

    Args:
        **typed: by label, None where nothing was typed.
    """
    return {label: str(value) for label, value in typed.items() if value is not None}


def engine_server(
    engine: str, model: str | None, device: str | None, dtype: str, threads: int | None, kv: int | None, seed: int
) -> TorchServer:
    """The engine that is measured.

    Args:
        engine: its name.
        model: a preset, a folder or a name.
        device: torch device.
        dtype: of the weights.
        threads: processor threads of torch.
        kv: KV tokens to set aside.
        seed: of random weights.

    Raises:
        ValueError: no such engine, or no model.
    """
    named_engine(engine)
    if model is None:
        raise ValueError("no model to measure; give --model, a preset, a folder or a Hugging Face name")
    return TorchServer(model, device, dtype, threads, kv, seed)


def pairs_of(text: str | None, option: str) -> dict[str, str]:
    """Names and values of `a=1,b=2`.

    Args:
        text: as typed.
        option: for the message.

    Raises:
        ValueError: a part is no pair.
    """
    pairs = {}
    for part in (text or "").split(",") if text else ():
        name, equals, value = part.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise ValueError(f"{option} {text!r}: {part.strip()!r} is not of the form name=value")
        pairs[name.strip()] = value.strip()
    return pairs


def fixed_of(text: str | None) -> dict[str, float]:
    """Parameters that are not fitted, as `--fix` says.

    Args:
        text: as typed.

    Raises:
        ValueError: a part is no pair, or a value no number.
    """
    pairs = pairs_of(text, "--fix")
    try:
        return {name: float(value) for name, value in pairs.items()}
    except ValueError as error:
        raise ValueError(f"--fix: {error}; expected numbers") from None

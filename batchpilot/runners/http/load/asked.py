"""What `batchpilot load` was told, made sure that it can be done and that none of it means nothing."""

from __future__ import annotations

import json
from typing import Any

import typer

from batchpilot.runners.options import refuse


def refuse_beside_import(context: typer.Context) -> None:
    """Refuse what says nothing of results that are read.

    Args:
        context: of the command.

    Raises:
        ValueError: such an option was typed.
    """
    others = set(context.params) - {"imported", "ttft_ms", "tpot_ms", "out", "overwrite", "as_json"}
    refuse(context, "with --import", *sorted(others))


def check_choices(url: str | None, *, compare: bool, tuner: str | None, limits: str | None, own: bool) -> None:
    """Make sure that there is a server, and that what sets limits has something to set.

    Args:
        url: of the server; None where one is started.
        compare: whether columns stand beside the server's.
        tuner: that sets limits.
        limits: constant ones.
        own: whether an engine of this machine runs.

    Raises:
        ValueError: what was given contradicts itself.
    """
    if url is None and not own:
        raise ValueError("--url is missing: the server's address, or --backend torch --model NAME to start one")
    if tuner is not None and limits is not None:
        raise ValueError("--tuner and --limits are both given; the simulation runs with one of them")
    if not compare and limits is not None:
        raise ValueError("--limits are those of the simulation; it runs with --compare")
    if tuner is not None and not (compare or url is None):
        raise ValueError("--tuner is that of the columns beside the server's; they come with --compare")


def refuse_unused(context: typer.Context, *, own: bool) -> None:
    """Refuse options that would change nothing, where it does not take the scenario to say so.

    Args:
        context: of the command.
        own: whether an engine of this machine runs.

    Raises:
        ValueError: one of them was typed.
    """
    typed = context.params
    if typed["trace"] is None:
        refuse(context, "without --trace", "trace_format", "columns")
    else:
        refuse(context, "with --trace", "scenario")
    if typed["out"] is None:
        refuse(context, "without --out", "overwrite")
    if not (typed["compare"] or typed["url"] is None):
        refuse(context, "without --compare", "track", "config")
    elif typed["tuner"] is None and not own and (typed["config"] is None or typed["limits"] is not None):
        refuse(context, "without --tuner", "track", "config")


def fields_of(body: str | None) -> dict[str, Any]:
    """What is sent beside the usual.

    Args:
        body: as typed.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        fields = json.loads(body or "{}")
    except ValueError as error:
        raise ValueError(f"--body is {body!r}, which is no JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ValueError(f"--body is {body!r}; it must be an object such as '{{\"top_p\": 0.9}}'")
    return fields

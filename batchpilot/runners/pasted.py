"""Limits as texts to paste: into our own commands, and into the command lines of the servers that people run."""

from __future__ import annotations

import shlex

import typer

from batchpilot.core.limits import Limits
from batchpilot.serving.formats.flags.servers import SERVERS


def limits_option(limits: Limits) -> str:
    """Limits as `--limits` of our commands reads them.

    Args:
        limits: what was found.
    """
    given = limits.in_force()
    texts = {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in given.items()}
    return ",".join(f"{name}={text}" for name, text in texts.items())


def pasted(limits: Limits) -> dict[str, str]:
    """What to paste, by what it is for: `--limits` of our commands, then each server's flags and what they cannot say.

    Args:
        limits: what was found.
    """
    texts = {"limits": limits_option(limits)}
    for server in SERVERS.values():
        missing = server.missing(limits)
        without = f"   (no flag for {', '.join(missing)})" if missing else ""
        texts[" ".join(server.program)] = shlex.join(server.flags(limits)) + without
    return texts


def show_pasted(limits: Limits) -> None:
    """Print what to paste.

    Args:
        limits: what was found.
    """
    for name, text in pasted(limits).items():
        typer.echo(f"{name}: {text}")

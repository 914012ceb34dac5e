"""Limits as texts to paste: into our own commands, and into the command lines of the servers that people run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

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


def pasted(limits: Limits, facts: Mapping[str, int] | None = None) -> dict[str, str]:
    """What to paste, by what it is for: `--limits` of our commands, then each server's flags and what they cannot say.

    Args:
        limits: what was found.
        facts: what else a server is to be started with, `tensor_parallel` and `pipeline_parallel`.
    """
    facts = facts or {}
    texts = {"limits": limits_option(limits)}
    for server in SERVERS.values():
        missing = server.missing(limits, facts)
        without = f"   (no flag for {', '.join(missing)})" if missing else ""
        texts[" ".join(server.program)] = shlex.join([*server.flags(limits), *server.stating(facts)]) + without
    return texts


def show_pasted(limits: Limits, facts: Mapping[str, int] | None = None) -> None:
    """Print what to paste.

    Args:
        limits: what was found.
        facts: as for `pasted`.
    """
    for name, text in pasted(limits, facts).items():
        typer.echo(f"{name}: {text}")

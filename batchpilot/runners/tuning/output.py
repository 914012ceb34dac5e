"""The files of `tune`: report, results, and what to paste into a server's configuration."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchpilot.core.files import write_atomic, write_json
from batchpilot.runners.pasted import pasted
from batchpilot.runners.report.grids import Grid
from batchpilot.runners.tuning.files import limits_yaml, vllm_yaml
from batchpilot.runners.tuning.page import comparison_grid, write_tune_page
from batchpilot.runners.tuning.result import CLOSE, DEFAULT, STATIC_BEST, TUNED, Tuned
from batchpilot.runners.tuning.search import Search
from batchpilot.serving.formats.flags.vllm import VLLM
from batchpilot.tuners.bayesian.studies import redacted


@dataclass(frozen=True)
class Written:
    """What is told besides the files.

    Attributes:
        comparison: the table.
        verdict: one sentence.
        notes: what a reader should know besides.
        pasted: texts to paste, by what they are for.
        results: what `results.json` holds.
    """

    comparison: Grid
    verdict: str
    notes: list[str]
    pasted: dict[str, str]
    results: dict[str, Any]


def finish(
    folder: Path, search: Search, found: Tuned, *, title: str, objective: str, origin: Mapping[str, Any]
) -> Written:
    """Write report.html, results.json, limits.yaml and vllm.yaml.

    Args:
        folder: where.
        search: what was searched.
        found: what was found.
        title: of the report.
        objective: what was maximised.
        origin: where the figures come from.

    Raises:
        OSError: a file cannot be written.
    """
    told, notes = verdict(found, objective), notes_on(search, found)
    paste = pasted(found.limits)
    command = shlex.join(["batchpilot", *(redacted(part) for part in sys.argv[1:])])
    origin = {**origin, "command": command, "storage": redacted(search.storage)}
    remarks = [told, command]
    results = {"verdict": told, "notes": notes, **found.to_dict(), "origin": origin}
    write_tune_page(
        folder / "report.html",
        title,
        found,
        verdict=told,
        objective=objective,
        pasted=paste,
        notes=notes,
        provenance=origin,
    )
    write_json(folder / "results.json", results)
    write_atomic(folder / "limits.yaml", limits_yaml(found.limits, remarks))
    write_atomic(folder / "vllm.yaml", vllm_yaml(found.limits, remarks))
    return Written(comparison_grid(found, objective), told, notes, paste, results)


def verdict(found: Tuned, objective: str) -> str:
    """The result in one sentence, on unseen seeds where there are any.

    Args:
        found: what was found.
        objective: what was maximised.
    """
    tuned, default = found.held[TUNED], found.held[DEFAULT]
    if tuned.unseen is None or default.unseen is None:
        where, value, shipped = "the seeds it was tuned on", tuned.seen, default.seen
    else:
        where, value, shipped = "unseen seeds", tuned.unseen, default.unseen
    return f"{found.limits}: {objective} {value:.3f} on {where}, {shipped:.3f} with what servers ship."


def notes_on(search: Search, found: Tuned) -> list[str]:
    """What a reader should know besides.

    Args:
        search: what was searched.
        found: what was found.
    """
    counts = {state: sum(trial.state == state for trial in found.trials) for state in ("complete", "pruned", "failed")}
    notes = [f"{counts['complete']} trials complete, {counts['pruned']} pruned, {counts['failed']} failed."]
    if STATIC_BEST in found.held:
        close = found.trials_until_close
        notes.append(
            f"No trial came within {1 - CLOSE:.0%} of static-best."
            if close is None
            else f"Within {1 - CLOSE:.0%} of static-best after {close} trials."
        )
    if not found.feasible:
        notes.append("No trial keeps every constraint; these limits violate them least.")
    missing = VLLM.missing(found.limits)
    if missing:
        notes.append(f"vLLM has no flag for {', '.join(missing)}: without them the figures do not hold there.")
    if search.seeds == search.seeds[:1]:
        notes.append("Tuned on one seed: the value on it is luck in part.")
    return notes

"""What `simulate` prints: a sentence, then figures in groups, beside those of what servers ship."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

GROUPS: dict[str, tuple[str, ...]] = {
    "What was asked": (
        "promise",
        "load",
        "requests",
        "device",
        "tensor_parallel",
        "model",
        "dtype",
        "kv_capacity_tokens",
    ),
    "What was kept": ("goodput_fraction", "goodput_tokens_per_s", "slo_attainment", "throughput_tokens_per_s"),
    "Time to first token, per token, to the end (ms)": tuple(
        f"{name}_p{q}_ms" for name in ("ttft", "tpot", "e2e") for q in (50, 95, 99)
    ),
    "Who was refused": (
        *("ended_refused_on_arrival", "ended_refused_by_guard", "refusal_p50_ms", "refusal_p95_ms"),
        *(f"refused_q{quarter}" for quarter in (1, 2, 3, 4)),
        "refused_worst_quarter",
    ),
    "How the others ended": ("ended_length", "ended_failed", "ended_cancelled", "ended_unfinished"),
    "The engine": (
        *("elapsed_s", "requests_per_s", "utilisation", "efficiency", "fairness", "preemptions", "prefix_hit_rate"),
        *("image_hit_rate", "encoding_fraction", "order", "final_limits"),
    ),
    "Where it comes from": ("latency", "seed", "config_hash", "git_revision", "versions"),
}
"""Figures by what they answer; whatever is in none is shown last."""

_COMMON = ("What was asked", "Where it comes from")
"""Of the run, whoever decides: shown once."""


def verdict(figures: Mapping[str, Any], beside: Mapping[str, Any] | None) -> str:
    """What came of it, in a sentence.

    Args:
        figures: of the run.
        beside: the same of what servers ship, None where that is the run itself.
    """
    where, share = f"{figures['strategy']} on {figures['scenario']}", f"{figures['goodput_fraction']:.1%}"
    told = f"{where}: {share} of the offered tokens within the promise of {figures['promise']}"
    return told + (f"; what servers ship keeps {beside['goodput_fraction']:.1%}." if beside is not None else ".")


def simulate_table(figures: Mapping[str, Any], beside: Mapping[str, Any] | None) -> Table:
    """The figures in groups, one column a run.

    Args:
        figures: of the run.
        beside: as in `verdict`.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("")
    table.add_column(str(figures["strategy"]), overflow="fold")
    if beside is not None:
        table.add_column(f"{beside['strategy']} †", style="dim", overflow="fold")
    left = [name for name in figures if not any(name in names for names in GROUPS.values())]
    groups = {**GROUPS, "Besides": tuple(name for name in left if name not in ("scenario", "strategy"))}
    for title, names in groups.items():
        shown = [name for name in names if name in figures]
        if shown:
            table.add_row(f"[bold]{title}[/bold]")
        for name in shown:
            one = beside is not None and title not in _COMMON
            table.add_row(f"  {name}", _text(figures[name]), *([_text(beside[name])] if one and beside else []))
    return table


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:,.3f}"
    return str(value)

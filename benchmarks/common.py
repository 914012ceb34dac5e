"""What several benchmarks have in common: a steady load of a recorded trace's lengths, and figures as a file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from batchpilot.core.files import json_text
from batchpilot.core.provenance import provenance


def steady(lengths: str, load: float, duration_s: float) -> dict[str, Any]:
    """The workload of a scenario: Poisson arrivals at a share of the capacity, for so many seconds."""
    return {
        "phases": [
            {
                "duration_s": duration_s,
                "arrivals": {"kind": "poisson", "load": load},
                "lengths": {"kind": lengths, "max_prompt_tokens": 7168},
            }
        ]
    }


def write_rows(options: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> None:
    """Write figures, options and provenance as JSON to `options.out`, if that is said."""
    if options.out:
        config = {name: str(value) for name, value in vars(options).items()}
        options.out.write_text(json_text({"rows": rows} | config | provenance(0, config), indent=1))

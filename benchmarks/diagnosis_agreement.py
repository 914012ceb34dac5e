"""How often `diagnose` names, from a server's figures alone, the limit that simulating it twice as wide shows.

    python benchmarks/diagnosis_agreement.py

Six devices, four mixes of prompts and outputs, three loads, seven settings. Beside the share of all servers: of those
that something binds, and what was named where the two differ.
"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from bound_servers import served

from batchpilot.core.limits import Limits
from batchpilot.diagnosis.relaxing import evidence_of, relax
from batchpilot.diagnosis.rules import NOTHING, diagnose

MACHINES = (
    ("H100-80GB", "Llama-3.1-8B"),
    ("A100-80GB", "Llama-3.1-8B"),
    ("A100-40GB", "Llama-3.1-8B"),
    ("L40S", "Llama-3.1-8B"),
    ("A10", "Llama-3.1-8B"),
    ("T4", "Qwen3-0.6B"),
)
MIXES = ((500, 300), (3000, 30), (150, 200), (1500, 150))
LOADS = (0.3, 0.8, 1.2)
SETTINGS = (
    (Limits(256, 2048), None),
    (Limits(16, 2048), None),
    (Limits(256, 256), None),
    (Limits(512, 8192), None),
    (Limits(64, 512), None),
    (Limits(256, 2048), 30_000),
    (Limits(256, 2048, 6000), None),
)


def main() -> None:
    """Print the shares and the confusions."""
    found: Counter[tuple[str, str]] = Counter()
    for machine, lengths, load, (limits, kv) in product(MACHINES, MIXES, LOADS, SETTINGS):
        config, requests, hardware = served(*machine, *lengths, load, kv=kv)
        worth = relax(config, requests, limits)
        found[worth.binds, diagnose(evidence_of(worth.result, hardware)).binds] += 1
    bound = Counter({pair: count for pair, count in found.items() if pair[0] != NOTHING})
    for name, counted in (("all", found), ("bound", bound)):
        agreed = sum(count for (true, told), count in counted.items() if true == told)
        print(f"{name}: {agreed} of {counted.total()} agree, {agreed / counted.total():.1%}")
    for (true, told), count in found.most_common():
        if true != told:
            print(f"  {count:3d} x {true} binds, {told} named")


if __name__ == "__main__":
    main()

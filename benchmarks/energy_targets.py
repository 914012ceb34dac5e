"""Which step target and batch size give the least joules a good token, and what the best for goodput give, by device.

    python benchmarks/energy_targets.py [--devices A100-80GB,H100-80GB,L4] [--load 0.7] [--seeds 3]

Llama 3 8B (Qwen3-0.6B on devices below 40 GB), chat lengths, TTFT 2 s and TPOT 100 ms, guarded limits with a token
budget of 2,048; every batch size with every step target. Energy is a model: idle and peak power of the datasheet, and
which share of each step the device is at full tilt. What keeps less than --attainment of the requests is left out.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

from common import steady, write_rows

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.configs.catalogue import device as find_device
from batchpilot.configs.scenario import Scenario
from batchpilot.core.limits import Limits
from batchpilot.runners.tuning.bench import ENERGY, SimulatedBench

TPOT_MS = 100.0
BATCH_SIZES = (8, 16, 32, 64, 128, 256)
SHARES = (0.25, 0.5, 0.75, 1.0, None)


def scenario(device: str, load: float) -> Scenario:
    """Ten minutes of chat at a share of what the device serves by estimate."""
    return Scenario.model_validate(
        {
            "name": "energy",
            "description": "Chat at a constant rate.",
            "family": "stationary",
            "device": device,
            "model": "Llama-3-8B" if find_device(device).memory_gb >= 40 else "Qwen3-0.6B",
            "promise": {"ttft_ms": 2000.0, "tpot_ms": TPOT_MS},
            "workload": steady("azure-conv", load, 600.0),
        }
    )


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="A100-80GB,H100-80GB,L4")
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--attainment", type=float, default=0.95)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="Write the figures as JSON here.")
    options = parser.parse_args()
    told = []
    print(f"{'':<28}{'batch':>7}{'target ms':>11}{'within SLO':>12}{'goodput':>9}{'J a good token':>16}")
    for device in options.devices.split(","):
        chosen = scenario(device, options.load)
        benches = {name: SimulatedBench(chosen, name) for name in ("goodput", ENERGY)}
        rows = []
        guarded = [
            Limits(size, 2048, step_target_ms=None if share is None else share * TPOT_MS, ttft_guard=1.0)
            for size, share in product(BATCH_SIZES, SHARES)
        ]
        for limits in (SERVER_DEFAULT, *guarded):
            runs = {name: [bench.run(limits, seed) for seed in range(options.seeds)] for name, bench in benches.items()}
            goodput, tokens = (sum(run.value for run in found) / options.seeds for found in runs.values())
            kept = sum(run.slo_attainment for run in runs["goodput"]) / options.seeds
            joules = 1.0 / tokens if tokens else float("inf")
            rows.append({"device": device, "limits": limits.to_dict(), "attainment": kept, "goodput": goodput})
            rows[-1]["joules_per_good_token"] = joules
        told += rows
        kept_ones = [row for row in rows[1:] if row["attainment"] >= options.attainment] or rows[1:]
        chosen_rows = {
            "what servers ship": rows[0],
            "best for goodput": max(kept_ones, key=lambda row: row["goodput"]),
            "least joules": min(kept_ones, key=lambda row: row["joules_per_good_token"]),
            "most joules": max(kept_ones, key=lambda row: row["joules_per_good_token"]),
        }
        for name, row in chosen_rows.items():
            target = row["limits"].get("step_target_ms")
            print(
                f"{device + ', ' + name:<28}{row['limits']['batch_size']:>7}"
                f"{'-' if target is None else format(target, 'g'):>11}{row['attainment']:>12.3f}"
                f"{row['goodput']:>9.3f}{row['joules_per_good_token']:>16.3f}",
                flush=True,
            )
    write_rows(options, told)


if __name__ == "__main__":
    main()

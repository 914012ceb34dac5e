"""Four replicas whole or split into pools that prefill and decode: who serves more within SLO, where, by how much.

    python benchmarks/pools.py [--seeds 3] [--device A100-80GB] [--gb-per-s 25]

Llama 3 8B, chat and code (lengths as in the Azure traces), two loads, two promises, the limits that servers ship and
the guarded ones, least tokens seen once a second; 1, 2 or 3 of the four prefill. Every way serves the same requests.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import Any

from common import steady, write_rows

from batchpilot.configs.fleet_scenario import FleetScenario
from batchpilot.envs.fleet.prepared import prepare_fleet
from batchpilot.runners.fleet.board import figures
from batchpilot.runners.fleet.strategies import GUARDED, NONE, SHIPPED, SPLIT, Strategy
from batchpilot.runners.report.statistics import interquartile_mean

REPLICAS = 4
PROMISES = {"flowing (1 s, 30 ms)": (1000.0, 30.0), "usual (2 s, 100 ms)": (2000.0, 100.0)}


def scenario(device: str, lengths: str, load: float, promise: tuple[float, float], pools: dict[str, Any]) -> Any:
    """The fleet that serves one of the loads."""
    return FleetScenario.model_validate(
        {
            "name": "pools",
            "description": "Four replicas, whole or split.",
            "family": "stationary",
            "replicas": {device: REPLICAS},
            "model": "Llama-3-8B",
            "promise": {"ttft_ms": promise[0], "tpot_ms": promise[1]},
            "pools": pools,
            "workload": steady(lengths, load, 300.0),
        }
    )


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="A100-80GB")
    parser.add_argument("--gb-per-s", type=float, default=25.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="Write the figures as JSON here.")
    options = parser.parse_args()
    told = []
    print(f"{options.device}, {options.gb_per_s:g} GB/s; goodput share whole, then the difference that a split makes")
    print(f"{'':<64}{'whole':>8}" + "".join(f"{f'{k} of 4':>9}" for k in range(1, REPLICAS)) + f"{'moved p99':>11}")
    cases = product((SHIPPED, GUARDED), ("azure-conv", "azure-code"), PROMISES, (0.5, 0.8))
    for limits, lengths, promise, load in cases:
        shares, moved = [], 0.0
        for prefill in range(REPLICAS):
            pools = {"prefill": {options.device: max(prefill, 1)}, "bandwidth_gb_per_s": options.gb_per_s}
            chosen = scenario(options.device, lengths, load, PROMISES[promise], pools)
            strategy = Strategy("", "least-tokens", SPLIT if prefill else NONE, limits)
            runs = []
            for seed in range(options.seeds):
                ((begun, _),) = strategy.ways(prepare_fleet(chosen, seed, strategy.make))
                fleet = begun.fleet(strategy.router(), None)
                fleet.run_until(begun.offer.horizon_ms)
                runs.append(figures(fleet.result(), begun))
            shares.append(float(interquartile_mean([run["goodput_fraction"] for run in runs])))
            moved = max(moved, *(run["handover_p99_ms"] for run in runs)) if prefill else 0.0
            told.append({"limits": limits, "lengths": lengths, "promise": promise, "load": load, "prefill": prefill})
            told[-1]["runs"] = runs
        name = f"{limits}, {lengths}, {promise}, load {load:g}"
        differences = "".join(f"{share - shares[0]:>+9.3f}" for share in shares[1:])
        print(f"{name:<64}" + f"{shares[0]:>8.3f}{differences}{moved:>11.0f}", flush=True)
    write_rows(options, told)


if __name__ == "__main__":
    main()

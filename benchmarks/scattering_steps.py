"""What do tuners keep of their goodput where steps scatter? A simulated server at twice its capacity.

    python benchmarks/scattering_steps.py --tuners guarded-adaptive,model-based --seeds 3

Step times are those of a small model on one processor core, times a factor: lognormal, correlated from step to step,
with a share of steps that take twice as long. All tuners begin with the true parameters.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from numpy.typing import NDArray

from batchpilot.baselines import SERVER_DEFAULT, Setting
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import SLO
from batchpilot.engines import EngineConfig, SimulatedEngine
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.latency import SaturationParameters
from batchpilot.tuners import build_tuner
from batchpilot.workloads import Lengths, LogNormal, RequestTable, poisson

LATENCY = SaturationParameters(p_max=3.2, k_b=2.0, k_s=0.05, tau_0=3.0, tau_b=0.08, tau_c=1e-4)
LENGTHS = Lengths(LogNormal(128, 0.8, 8, 512), (LogNormal(48, 0.6, 4, 192),))
PROMISE = SLO(673.0, 37.4)
RATE_PER_S, SECONDS = 43.2, 120.0

NOISES = ((0.03, 0.0, 0.0), (0.15, 0.0, 0.0), (0.15, 0.8, 0.02), (0.25, 0.9, 0.05))
"""Standard deviation of the logarithm, correlation from step to step, share of doubled steps."""

TUNERS = ("guarded-default", "guarded-adaptive", "model-based", "policy-guarded")


def factors(count: int, noise: tuple[float, float, float], rng: np.random.Generator) -> NDArray[np.float64]:
    """Factors on successive step times, shape (count,)."""
    deviation, correlation, doubled = noise
    shocks = math.sqrt(1 - correlation**2) * rng.standard_normal(count)
    logs, now = np.empty(count), 0.0
    for step, shock in enumerate(shocks.tolist()):
        logs[step] = now = correlation * now + shock
    return np.exp(deviation * logs) * np.where(rng.random(count) < doubled, 2.0, 1.0)


def goodput_share(name: str, noise: tuple[float, float, float], seed: int) -> float:
    """Share of the offered output tokens within their promise."""
    rng = np.random.default_rng(seed)
    arrival_ms = poisson(RATE_PER_S, 1000.0 * SECONDS, rng)
    requests = RequestTable.from_arrays(arrival_ms, *LENGTHS.sample(len(arrival_ms), rng), slos=PROMISE)
    config = EngineConfig(latency=LATENCY, estimate=LATENCY, kv_capacity_tokens=131_072, noise=0.01, seed=seed)
    engine = SimulatedEngine(config, requests, record_steps=True)
    engine.state.noise[:] = factors(len(engine.state.noise), noise, np.random.default_rng([seed, 1]))
    tuner = build_tuner(name, Setting(TunerConfig(), SERVER_DEFAULT, PROMISE, seed, "guarded", LATENCY))
    result = run_engine(engine, tuner, window_ms=1000.0)
    return float(result.generated_tokens[result.slo_met].sum() / requests.output_tokens.sum())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tuners", default=",".join(TUNERS))
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    tuners = asked.tuners.split(",")
    print(f"| noise, correlation, doubled | {' | '.join(tuners)} |\n{'|---' * (len(tuners) + 1)}|")
    for noise in NOISES:
        shares = [np.mean([goodput_share(name, noise, seed) for seed in range(asked.seeds)]) for name in tuners]
        print(f"| {', '.join(map(str, noise))} | {' | '.join(f'{share:.3f}' for share in shares)} |", flush=True)


if __name__ == "__main__":
    main()

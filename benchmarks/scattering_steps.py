"""What do tuners keep of their goodput where steps scatter? A simulated server at twice its capacity.

    python benchmarks/scattering_steps.py --tuners guarded-adaptive,model-based --seeds 3
    python benchmarks/scattering_steps.py --steps FOLDER --shares 1.0,0.95,0.85

Step times are those of a small model on one processor core, times a factor: lognormal, correlated from step to step,
with a share of steps that take twice as long. All tuners begin with the true parameters. With `--steps` the step times
are a fit to the logs `steps-*.csv` of a real server (columns batch_size, tokens, latency_ms, context_tokens); lengths,
load and promise are those under which a vLLM on two cores wrote them, at twice its capacity. `--shares` adds guarded
defaults that aim at so much of the promise.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batchpilot.baselines import SERVER_DEFAULT, GuardedTuner, Setting
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import SLO
from batchpilot.engines import EngineConfig, SimulatedEngine
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.latency import Observations, SaturationParameters, fit
from batchpilot.tuners import build_tuner
from batchpilot.workloads import Lengths, LogNormal, RequestTable, poisson

SECONDS = 120.0


@dataclass(frozen=True)
class Server:
    """A simulated server and its load."""

    latency: SaturationParameters
    lengths: Lengths
    promise: SLO
    rate_per_s: float
    kv_tokens: int


SMALL = Server(
    SaturationParameters(p_max=3.2, k_b=2.0, k_s=0.05, tau_0=3.0, tau_b=0.08, tau_c=1e-4),
    Lengths(LogNormal(128, 0.8, 8, 512), (LogNormal(48, 0.6, 4, 192),)),
    SLO(673.0, 37.4),
    43.2,
    131_072,
)


def logged(folder: str) -> Server:
    """The server whose steps were logged; what loaded it was made like this."""
    paths = sorted(Path(folder).glob("steps-*.csv"))
    rows = np.concatenate([np.genfromtxt(path, delimiter=",", skip_header=1) for path in paths])
    latency = fit(Observations(rows[:, 0], rows[:, 1], rows[:, 3], rows[:, 2])).parameters
    lengths = Lengths(LogNormal(100, 0.6, 16, 600), (LogNormal(40, 0.6, 4, 200),))
    return Server(latency, lengths, SLO(5000.0, 150.0), 5.6, 93_184)


NOISES = ((0.03, 0.0, 0.0), (0.15, 0.0, 0.0), (0.15, 0.8, 0.02), (0.25, 0.9, 0.05))
"""Standard deviation of the logarithm, correlation from step to step, share of doubled steps."""

SHARE = "guarded at "
TUNERS = ("guarded-default", "guarded-adaptive", "model-based", "policy-guarded")


def factors(count: int, noise: tuple[float, float, float], rng: np.random.Generator) -> NDArray[np.float64]:
    """Factors on successive step times, shape (count,)."""
    deviation, correlation, doubled = noise
    shocks = math.sqrt(1 - correlation**2) * rng.standard_normal(count)
    logs, now = np.empty(count), 0.0
    for step, shock in enumerate(shocks.tolist()):
        logs[step] = now = correlation * now + shock
    return np.exp(deviation * logs) * np.where(rng.random(count) < doubled, 2.0, 1.0)


def goodput_share(name: str, server: Server, noise: tuple[float, float, float], seed: int) -> float:
    """Share of the offered output tokens within their promise."""
    rng = np.random.default_rng(seed)
    arrival_ms = poisson(server.rate_per_s, 1000.0 * SECONDS, rng)
    requests = RequestTable.from_arrays(arrival_ms, *server.lengths.sample(len(arrival_ms), rng), slos=server.promise)
    config = EngineConfig(
        latency=server.latency, estimate=server.latency, kv_capacity_tokens=server.kv_tokens, noise=0.01, seed=seed
    )
    engine = SimulatedEngine(config, requests, record_steps=True)
    engine.state.noise[:] = factors(len(engine.state.noise), noise, np.random.default_rng([seed, 1]))
    if name.startswith(SHARE):
        tuner = GuardedTuner(server.promise, step_target_share=float(name.removeprefix(SHARE)))
    else:
        setting = Setting(TunerConfig(), SERVER_DEFAULT, server.promise, seed, "guarded", server.latency)
        tuner = build_tuner(name, setting)
    result = run_engine(engine, tuner, window_ms=1000.0)
    return float(result.generated_tokens[result.slo_met].sum() / requests.output_tokens.sum())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tuners", default=",".join(TUNERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", help="folder of step logs of a real server")
    parser.add_argument("--shares", help="of the promise, for guarded defaults beside the tuners")
    asked = parser.parse_args()
    tuners = asked.tuners.split(",") + [f"{SHARE}{share}" for share in (asked.shares or "").split(",") if share]
    server = logged(asked.steps) if asked.steps else SMALL
    print(f"| noise, correlation, doubled | {' | '.join(tuners)} |\n{'|---' * (len(tuners) + 1)}|")
    for noise in NOISES:
        shares = [np.mean([goodput_share(name, server, noise, seed) for seed in range(asked.seeds)]) for name in tuners]
        print(f"| {', '.join(map(str, noise))} | {' | '.join(f'{share:.3f}' for share in shares)} |", flush=True)


if __name__ == "__main__":
    main()

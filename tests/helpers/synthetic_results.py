"""Result rows and curves that look like a real leaderboard's, drawn from a seed: four scenarios, five strategies."""

import math

import numpy as np

SCENARIOS = {
    "chat-a100": ("stationary", "A100-80GB", "Llama-3-8B"),
    "burst-h100": ("burst", "H100-80GB", "Llama-3-8B"),
    "shift-t4": ("shift", "T4", "Qwen3-0.6B"),
    "overload-h100": ("overload", "H100-80GB", "Llama-2-70B"),
}
GOODPUT = {
    "static-8": (0.95, 0.30, 0.55, 0.10),
    "static-default": (0.97, 0.55, 0.40, 0.05),
    "aimd": (0.93, 0.57, 0.60, 0.20),
    "dynamic": (0.96, 0.62, 0.66, 0.31),
    "guarded-default": (0.96, 0.81, 0.79, 0.74),
    "static-best": (0.98, 0.74, 0.70, 0.72),
}


def result_row(scenario="chat-a100", tuner="dynamic", seed=0, **changes):
    """One row with plausible values, of which `changes` replaces some."""
    family, device, model = SCENARIOS.get(scenario, ("stationary", "A10", "Llama-3-8B"))
    row = {
        "scenario": scenario,
        "family": family,
        "device": device,
        "model": model,
        "track": "guarded",
        "tuner": tuner,
        "seed": seed,
        "requests": 1200,
        "goodput_fraction": 0.7,
        "goodput_tokens_per_s": 1400.0,
        "throughput_tokens_per_s": 1800.0,
        "throughput_max_tokens_per_s": 2100.0,
        "requests_per_s": 9.0,
        "efficiency": 1.0,
        "ttft_p50_ms": 240.0,
        "ttft_p95_ms": 1900.0,
        "ttft_p99_ms": 4100.0,
        "tpot_p50_ms": 31.0,
        "tpot_p95_ms": 58.0,
        "tpot_p99_ms": 96.0,
        "e2e_p50_ms": 4100.0,
        "e2e_p95_ms": 9300.0,
        "e2e_p99_ms": 12000.0,
        "refusal_p50_ms": math.nan,
        "refusal_p95_ms": math.nan,
        "disciplines": "spf" if tuner == "guarded-default" else "",
        "slo_attainment": 0.74,
        "utilisation": 0.91,
        "utilisation_peak": 1.0,
        "bandwidth_utilisation": 0.6,
        "compute_utilisation": 0.3,
        "flop_per_byte": 90.0,
        "memory_utilisation": 0.8,
        "kv_used_mean": 0.4,
        "kv_used_peak": 0.7,
        "joules_per_token": 0.6,
        "usd_per_million": 1.2,
        "fairness": 0.98,
        "success_rate": 0.999,
        "refused_fraction": 0.001,
        "failed": 0,
        "preemptions": 3,
        "convergence_s": 24.0,
        "convergence_decisions": 24,
        "size_stability": 0.06,
        "refused_q1": 0.0,
        "refused_q2": 0.0,
        "refused_q3": 0.0,
        "refused_q4": 0.0,
        "refused_worst_quarter": 0.0,
        "tuner_overhead": 0.0004,
        "latency": "estimated: roofline",
        "config_hash": "0123456789ab",
        "git_revision": "abcdef012345",
        "versions": "python=3.11.0 numpy=2.0.0",
    }
    return row | changes


def result_rows(seeds=3, scenarios=tuple(SCENARIOS), tuners=tuple(GOODPUT), seed=7):
    """Rows of a whole leaderboard: noise shared by the strategies of a seed, as equal requests give it."""
    rng = np.random.default_rng(seed)
    rows = []
    for place, scenario in enumerate(SCENARIOS):
        for run in range(seeds):
            luck = rng.normal(0, 0.02)
            for tuner, levels in GOODPUT.items():
                share = float(np.clip(levels[place] + luck + rng.normal(0, 0.008), 0.01, 1))
                queueing = 400 + 90_000 * (1 - share) ** 2 * (0.1 if tuner == "guarded-default" else 1)
                refused = (1 - share) * np.array([0.2, 0.5, 0.9, 2.0]) if tuner == "guarded-default" else np.zeros(4)
                settled = tuner.startswith("static") or (run + place) % 3 > 0
                changes = {
                    "goodput_fraction": share,
                    "goodput_tokens_per_s": 2000 * share,
                    "throughput_tokens_per_s": 2000 * share**0.3,
                    "ttft_p95_ms": queueing,
                    "ttft_p99_ms": 1.4 * queueing,
                    "slo_attainment": share**0.9,
                    "utilisation": float(np.clip(0.8 + 0.1 * place + luck, 0, 1)),
                    "success_rate": float(1 - refused.mean()),
                    "refused_fraction": float(refused.mean()),
                    "convergence_s": (0.0 if tuner.startswith("static") else 20.0 + 7 * run) if settled else math.nan,
                    "size_stability": (0.0 if tuner.startswith("static") else 0.05) if settled else math.nan,
                    "tuner_overhead": 0.0 if tuner.startswith("static") else 3e-4,
                    **{f"refused_q{k + 1}": float(refused[k]) for k in range(4)},
                    "refused_worst_quarter": float(refused.max()),
                }
                if scenario in scenarios and tuner in tuners:
                    rows.append(result_row(scenario, tuner, run, **changes))
    return rows


def result_curves(scenarios=tuple(SCENARIOS), tuners=tuple(GOODPUT), windows=150, seed=7):
    """Curves of a whole leaderboard, one value a second; the tail latency has windows without a sample."""
    rng = np.random.default_rng(seed)
    curves = {}
    for place, scenario in enumerate(scenarios):
        for tuner in tuners:
            time_s = np.arange(1.0, windows + 1)
            fixed = {"static-8": 8.0, "static-default": 256.0, "static-best": 96.0}.get(tuner)
            climb = np.minimum(4 * 2 ** np.minimum(time_s // 4, 10), 64 + 16 * np.sign(np.sin(time_s / 9)))
            batch = climb if fixed is None else np.full(windows, fixed)
            grows = {"static-8": 8.0, "static-default": 3.0}.get(tuner, 0.0) * place
            queue = np.maximum(0, grows * time_s + 20 * np.sin(time_s / 12) + rng.normal(0, 4, windows))
            goodput = np.maximum(0, 1800 - 3 * queue + rng.normal(0, 90, windows))
            curves[scenario, tuner] = {
                "time_s": time_s.tolist(),
                "batch_size": batch.tolist(),
                "token_budget": [math.nan] * windows,
                "queue": np.round(queue).tolist(),
                "running": np.minimum(batch, queue + 4).tolist(),
                "goodput_tokens_per_s": goodput.tolist(),
                "ttft_p95_over_promise": np.where(rng.random(windows) < 0.05, math.nan, 0.15 + queue / 50).tolist(),
                "tpot_p95_over_promise": np.full(windows, 0.6).tolist(),
                "oldest_wait_over_promise": (queue / 60).tolist(),
                "arrivals_per_s": np.full(windows, 9.0).tolist(),
                "refused_per_s": (queue > 20).astype(float).tolist(),
            }
    return curves

"""The same promises on another engine: targets as multiples of what a lone request takes there. Times in ms.

Whether 50 ms a token is strict depends on the device. The literature therefore states targets as multiples of an
unloaded engine's latency ("SLO scale"); so restated, a scenario keeps its character wherever it runs.

Source: Li et al., AlpaServe, OSDI 2023, section 6.1 (SLO scale); Agrawal et al., Sarathi-Serve, OSDI 2024, section 5
(strict and relaxed targets are 5 and 25 times the time of a decode step).
"""

from __future__ import annotations

from dataclasses import replace

from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.workloads.table import RequestTable


def unloaded_ms(latency: SaturationParameters, mean_prompt: float, mean_output: float) -> tuple[float, float]:
    """TTFT and TPOT of a request that has the engine to itself.

    Args:
        latency: step latency of the engine.
        mean_prompt: prompt tokens, >= 1.
        mean_output: output tokens, >= 1.

    Returns:
        Time of its prefill in one step, and of a decode step half-way through its output.
    """
    prefill = latency.predict(1, mean_prompt)
    decode = latency.predict(1, 1, mean_prompt + mean_output / 2)
    return float(prefill), float(decode)


def similar_promises(
    requests: RequestTable, stated_for: SaturationParameters, runs_on: SaturationParameters
) -> RequestTable:
    """Requests whose targets are the same multiples of an unloaded engine's latency as before.

    Args:
        requests: with targets as stated.
        stated_for: step latency of the engine that the targets were stated for.
        runs_on: step latency of the engine that will serve.

    Returns:
        The same requests; every TTFT target is scaled by one factor and every TPOT target by another. No promise stays
        no promise.
    """
    if not len(requests):
        return requests
    means = float(requests.prompt_tokens.mean()), float(requests.output_tokens.mean())
    pairs = zip(unloaded_ms(runs_on, *means), unloaded_ms(stated_for, *means), strict=True)
    ttft, tpot = (here / there for here, there in pairs)
    return requests.with_slos(
        [replace(slo, ttft_ms=slo.ttft_ms * ttft, tpot_ms=slo.tpot_ms * tpot) for slo in requests.slos]
    )

"""What an engine takes beside its measured operators: chosen on published runs on H100, and on nothing else.

Operators are measured alone and in CUDA graphs. Beside them an engine schedules, samples and answers; and under vLLM
its experts compute prompts more slowly than their kernels do alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from batchpilot.latency.model.saturation import SaturationParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """What an engine adds.

    Attributes:
        step_ms: of every step.
        request_ms: of every request of a step.
        expert_prompts: factor on the time per token of a mixture of experts where many tokens are computed.
        front_ms: between a client and the engine, once a request; part of the time to first token, of no step.
    """

    step_ms: float = 0.0
    request_ms: float = 0.0
    expert_prompts: float = 1.0
    front_ms: float = 0.0


OVERHEADS: dict[str, Overheads] = {
    "vllm": Overheads(step_ms=0.24, request_ms=0.009, expert_prompts=1.9, front_ms=18.0),
    "trtllm": Overheads(front_ms=45.0),
}
"""By engine; `benchmarks/silicon.py` holds them against the runs on all other devices."""


def as_served(operators: SaturationParameters, engine: str) -> SaturationParameters:
    """Step latency of an engine at work.

    Args:
        operators: fitted to its operators.
        engine: which one; an unknown one adds nothing.
    """
    added = OVERHEADS.get(engine, Overheads())
    slower = added.expert_prompts if operators.tau_e else 1.0
    return replace(
        operators,
        # The rate of many tokens falls, that of few stays: there 1 / (p_max * k_s) counts.
        p_max=operators.p_max / slower,
        k_s=operators.k_s * slower,
        tau_0=operators.tau_0 + added.step_ms,
        tau_b=operators.tau_b + added.request_ms,
    )

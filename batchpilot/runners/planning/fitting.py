"""What fits on the devices of a plan, in words."""

from __future__ import annotations

from batchpilot.configs.footprint import kv_bytes_per_token, kv_type, weight_bytes
from batchpilot.engines.memory import MB
from batchpilot.engines.startup import startup_memory
from batchpilot.envs.scenarios import tower_weight
from batchpilot.latency.model.intensity import step_intensity
from batchpilot.latency.planning.planner import Plan
from batchpilot.runners.planning.held import Simulated
from batchpilot.runners.planning.planned import Question

_GB = 2**30


def memory_line(question: Question) -> str:
    """Where the memory of one device goes.

    Args:
        question: what is served on what.
    """
    model, count, memory = question.model, question.tensor_parallel, question.memory
    stages, devices = question.pipeline_parallel, question.devices
    weights = weight_bytes(model, question.dtype) / devices / _GB
    tower_gb = tower_weight(question.vision) / devices / _GB
    encoder = f"{tower_gb:.1f} GB of {question.vision.tower}, " if question.vision and tower_gb else ""
    kept = "" if model.active == model.parameters else f", {model.active / 1e9:.3g} of them active"
    token_kb = kv_bytes_per_token(model, count, question.kv_dtype) / stages / 1024
    return (
        f"{weights:.1f} GB of weights ({model.parameters / 1e9:.3g} billion{kept}, {question.dtype}), {encoder}"
        f"{stages * memory.kv_capacity_tokens:,} KV tokens of {token_kb:.4g} kB ({kv_type(question.kv_dtype, model)}), "
        f"of {memory.total_mb * MB / _GB:.0f} GB a device"
    )


def startup_line(question: Question, batch_size: int) -> str:
    """Whether the server starts with so many requests a step.

    Args:
        question: what is served on what.
        batch_size: most requests of a step.
    """
    start = startup_memory(question.device, question.model, batch_size)
    needed = (
        f"{start.sampler_mb:,.0f} MB for the sampler with {batch_size} requests, {start.graphs_mb:,.0f} MB for CUDA "
        f"graphs, {start.context_mb:,.0f} MB for the driver, of {start.free_mb:,.0f} MB outside the server's 0.9"
    )
    if start.fits:
        return needed
    return f"{needed}: does not fit; at most {start.most_requests} requests, or a smaller share of memory"


def intensity_line(question: Question, chosen: Plan) -> str:
    """What the planned mean step asks of the device.

    Args:
        question: what is served on what.
        chosen: the plan.
    """
    step = step_intensity(
        question.device,
        question.model,
        chosen.step_tokens,
        chosen.context_tokens,
        chosen.step_ms,
        tensor_parallel=question.tensor_parallel,
        dtype=question.dtype,
        kv_dtype=question.kv_dtype,
    )
    return (
        f"{step.bound_by}-bound: {step.flop_per_byte:.3g} operations a byte (the device's ridge is {step.ridge:.3g}); "
        f"{step.bandwidth_utilisation:.0%} of the bandwidth, {step.compute_utilisation:.0%} of the 16-bit operations"
    )


def images_line(question: Question, held: Simulated) -> str:
    """What encoding images takes of an engine's time, and how many are found encoded.

    Args:
        question: what is served on what, images in it.
        held: the simulation of the planned rate.
    """
    said = f"{question.image_share:.0%} of the requests have one"
    if question.vision is None:
        return f"{said}; their tokens count, their encoding does not: nothing is known of it (--tower)"
    encode_ms = float(question.demand.encode_ms.mean())
    named = question.vision.tower or "a tower of your own"
    return (
        f"{said}; {named} takes {encode_ms:.3g} ms a request, {encode_ms * held.rate_per_s / 1000:.1%} of the time; "
        f"{held.image_hit_rate:.0%} are found encoded in simulation"
    )

"""Memory that an engine takes at its start beside what it serves with, where users meet out-of-memory. MB are 2**20."""

from __future__ import annotations

from dataclasses import dataclass

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec
from batchpilot.engines.memory import MB

SAMPLER_BYTES = 24
"""Of each request and token of the vocabulary while the sampler warms up with as many requests as may run: logits in 32
bits, these sorted (4), the places they came from (8), probabilities and their running sum (8)."""

GRAPH_MB_PER_LAYER = 20.0
"""CUDA graphs of all batch sizes, an estimate: servers log 0.5 to 0.7 GB for 32 layers and near 2 GB for 80."""

CONTEXT_MB = 600.0
"""The driver's own, an estimate for current NVIDIA devices."""


@dataclass(frozen=True, slots=True)
class StartupMemory:
    """What a start needs on one device beside weights, activations and KV cache.

    Attributes:
        sampler_mb: the sampler warming up with `requests` requests.
        graphs_mb: CUDA graphs.
        context_mb: the driver's own.
        free_mb: what the server's share of the device leaves for them.
        requests: most requests of a step.
        most_requests: the largest number of requests whose sampler still fits; 0 where none does.
    """

    sampler_mb: float
    graphs_mb: float
    context_mb: float
    free_mb: float
    requests: int
    most_requests: int

    @property
    def fits(self) -> bool:
        """Whether the server starts with so many requests."""
        return self.requests <= self.most_requests


def startup_memory(
    device: DeviceSpec, model: ModelSpec, requests: int, memory_fraction: float = 0.9, graphs: bool = True
) -> StartupMemory:
    """What an engine's start needs outside its share of a device's memory.

    Servers divide their share between weights, activations and KV cache first; CUDA graphs and the sampler's warm-up
    with `requests` requests come afterwards, out of what is left.

    Args:
        device: the device.
        model: the model; every device holds the logits of its whole vocabulary.
        requests: most requests of a step, >= 1.
        memory_fraction: the server's share, in (0, 1].
        graphs: False where CUDA graphs are turned off.

    Raises:
        ValueError: an argument is outside its bound.
    """
    if requests < 1 or not 0 < memory_fraction <= 1:
        raise ValueError(f"requests {requests} must be >= 1 and memory_fraction {memory_fraction} in (0, 1]")
    graphs_mb = model.layers * GRAPH_MB_PER_LAYER if graphs and device.vendor == "nvidia" else 0.0
    context_mb = CONTEXT_MB if device.vendor in ("nvidia", "amd") else 0.0
    free_mb = device.memory_gb * 1024 * (1 - memory_fraction)
    each_mb = SAMPLER_BYTES * model.vocab_size / MB
    most = max(0, int((free_mb - graphs_mb - context_mb) / each_mb))
    return StartupMemory(requests * each_mb, graphs_mb, context_mb, free_mb, requests, most)

"""The saturation model: how long a step takes, and what that allows."""

from batchpilot.latency.saturation import SaturationParameters, largest_tokens, step_ms

__all__ = ["SaturationParameters", "largest_tokens", "step_ms"]

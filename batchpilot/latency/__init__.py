"""The saturation model: how long a step takes, and what that allows."""

from batchpilot.latency.roofline import LatencyEstimate, roofline
from batchpilot.latency.saturation import SaturationParameters, largest_tokens, step_ms

__all__ = ["LatencyEstimate", "roofline", "SaturationParameters", "largest_tokens", "step_ms"]

"""The documented probe: grow until it does not pay, bisect, then keep adjusting (dynamic) or hold (hybrid)."""

from batchpilot.tuners.probe.tuner import ProbeTuner

__all__ = ["ProbeTuner"]

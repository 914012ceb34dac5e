"""The documented probe: grow until it does not pay, bisect, then keep adjusting (dynamic) or hold (hybrid)."""

from batchpilot.tuners.probe.tuner import NotObeyedError, ProbeTuner

__all__ = ["ProbeTuner", "NotObeyedError"]

"""Everything that answers ask and tell: `make_tuner(name)` builds any of them, `TUNERS` names them. Light to import."""

from batchpilot.tuners.probe.phases import Phase
from batchpilot.tuners.probe.tuner import ProbeTuner
from batchpilot.tuners.registry import DEFAULT_TUNER, TUNERS, build_tuner, make_tuner

__all__ = ["TUNERS", "DEFAULT_TUNER", "make_tuner", "build_tuner", "ProbeTuner", "Phase"]

"""Everything that answers ask and tell: `make_tuner(name)` builds any of them, `TUNERS` names them. Light to import."""

from batchpilot.tuners.probe.phases import Phase
from batchpilot.tuners.probe.tuner import NotObeyedError, ProbeTuner
from batchpilot.tuners.registry import DEFAULT_TUNER, TUNERS, build_tuner, make_tuner, tuner_name

__all__ = [
    "TUNERS",
    "DEFAULT_TUNER",
    "make_tuner",
    "build_tuner",
    "tuner_name",
    "ProbeTuner",
    "NotObeyedError",
    "Phase",
]

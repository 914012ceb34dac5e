"""The words everyone speaks: limits, window metrics, SLOs and the tuner contract. Numpy only."""

from batchpilot.core.details import WindowDetails
from batchpilot.core.limits import DISCIPLINES, TRACKS, Limits
from batchpilot.core.metrics import WindowMetrics
from batchpilot.core.slo import SLO, SLO_CLASSES
from batchpilot.core.tuner import Tuner

__all__ = ["Limits", "WindowMetrics", "WindowDetails", "SLO", "SLO_CLASSES", "Tuner", "DISCIPLINES", "TRACKS"]

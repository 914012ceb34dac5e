"""Online adaptation: a latency model that follows its engine, and tells when it cannot."""

from batchpilot.latency.online.adaptive import AdaptiveLatency
from batchpilot.latency.online.attempts import Update
from batchpilot.latency.online.background import BackgroundUpdates
from batchpilot.latency.online.drift import Drift, DriftDetector
from batchpilot.latency.online.history import History, ObservationBuffer
from batchpilot.latency.online.momentum import Momentum
from batchpilot.latency.online.monitor import ErrorSummary, Health, Monitor
from batchpilot.latency.online.refits import Refit
from batchpilot.latency.online.registry import UPDATE_RULES, make_update_rule
from batchpilot.latency.online.rules import UpdateRule
from batchpilot.latency.online.stages import STAGES
from batchpilot.latency.online.triggers import Triggers

__all__ = [
    "AdaptiveLatency",
    "BackgroundUpdates",
    "Update",
    "UpdateRule",
    "UPDATE_RULES",
    "make_update_rule",
    "Refit",
    "Momentum",
    "DriftDetector",
    "Drift",
    "Monitor",
    "ErrorSummary",
    "Health",
    "Triggers",
    "STAGES",
    "ObservationBuffer",
    "History",
]

"""Engines: one scheduler and the executors that run its plans."""

from batchpilot.engines.detection.detect import DetectedDevice, detect_device
from batchpilot.engines.memory import MemoryModel, memory_model
from batchpilot.engines.scheduler.state import FINISH_REASONS
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.engines.simulated.engine import SimulatedEngine
from batchpilot.engines.simulated.result import SimulationResult
from batchpilot.engines.simulated.simulation import run_engine, simulate

__all__ = [
    "simulate",
    "run_engine",
    "SimulationResult",
    "SimulatedEngine",
    "EngineConfig",
    "FINISH_REASONS",
    "MemoryModel",
    "memory_model",
    "DetectedDevice",
    "detect_device",
]

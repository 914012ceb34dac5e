"""Engines: one scheduler and the executors that run its plans."""

from batchpilot.engines.detect import DetectedDevice, detect_device
from batchpilot.engines.memory import MemoryModel, memory_model
from batchpilot.engines.simulated_engine import EngineConfig, SimulatedEngine
from batchpilot.engines.simulation import SimulationResult, run_engine, simulate
from batchpilot.engines.state import FINISH_REASONS

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

"""Engines: one scheduler and the executors that run its plans."""

from batchpilot.engines.simulated_engine import EngineConfig, SimulatedEngine
from batchpilot.engines.simulation import SimulationResult, run_engine, simulate
from batchpilot.engines.state import FINISH_REASONS

__all__ = ["simulate", "run_engine", "SimulationResult", "SimulatedEngine", "EngineConfig", "FINISH_REASONS"]

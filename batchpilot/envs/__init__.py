"""The batching problem as an environment: scenarios, observations, rewards and the Gymnasium classes."""

from batchpilot.envs.scenarios import PreparedRun, capacity_per_s, prepare

__all__ = ["PreparedRun", "prepare", "capacity_per_s"]

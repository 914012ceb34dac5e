"""The batching problem as an environment: scenarios, observations, rewards and the Gymnasium classes.

Importing this package registers `batchpilot/Batching-v0` with Gymnasium.
"""

from batchpilot.envs.backends import BACKENDS, Backend, make_backend
from batchpilot.envs.batching import BatchingEnv
from batchpilot.envs.registration import ENV_ID, register_envs
from batchpilot.envs.rewards import REWARDS
from batchpilot.envs.scenarios import PreparedRun, capacity_per_s, prepare
from batchpilot.envs.vector import BatchingVectorEnv

__all__ = [
    "BatchingEnv",
    "BatchingVectorEnv",
    "Backend",
    "BACKENDS",
    "make_backend",
    "ENV_ID",
    "register_envs",
    "REWARDS",
    "PreparedRun",
    "prepare",
    "capacity_per_s",
]

register_envs()

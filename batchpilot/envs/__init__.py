"""The batching problem as an environment: scenarios, observations, rewards and the Gymnasium classes.

Importing this package registers `batchpilot/Batching-v0`, an id for every track and suite, `batchpilot/BatchService-v0`
and `batchpilot/Fleet-v0` with Gymnasium; `gymnasium.make("batchpilot.envs:batchpilot/Batching-v0")` imports it.
"""

from batchpilot.envs.backends import BACKENDS, Backend, make_backend
from batchpilot.envs.batching import BatchingEnv
from batchpilot.envs.registration import BATCH_SERVICE_ID, ENV_ID, FLEET_ID, env_id, register_envs, suite_ids
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
    "BATCH_SERVICE_ID",
    "FLEET_ID",
    "env_id",
    "suite_ids",
    "register_envs",
    "REWARDS",
    "PreparedRun",
    "prepare",
    "capacity_per_s",
]

register_envs()

"""Makes `gymnasium.make` and `gymnasium.make_vec` know the environment; light, so that it can run at import."""

from __future__ import annotations

import gymnasium

ENV_ID = "batchpilot/Batching-v0"
BATCH_SERVICE_ID = "batchpilot/BatchService-v0"


def register_envs() -> None:
    """Register `batchpilot/Batching-v0` with its native vector form, and the batch-service queue; idempotent."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(
            ENV_ID,
            entry_point="batchpilot.envs.batching:BatchingEnv",
            vector_entry_point="batchpilot.envs.vector:BatchingVectorEnv",
        )
    if BATCH_SERVICE_ID not in gymnasium.registry:
        gymnasium.register(BATCH_SERVICE_ID, entry_point="batchpilot.envs.batch_service:BatchServiceEnv")

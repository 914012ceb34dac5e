"""Makes `gymnasium.make` and `gymnasium.make_vec` know the environments; light, so that it can run at import."""

from __future__ import annotations

from typing import Any

import gymnasium

from batchpilot.configs.scenario import suites
from batchpilot.core.limits import TRACKS

ENV_ID = "batchpilot/Batching-v0"
BATCH_SERVICE_ID = "batchpilot/BatchService-v0"
FLEET_ID = "batchpilot/Fleet-v0"

VERSION = 1
"""Changes with anything that makes scores of a track and suite another thing: features, actions, scenarios, rewards."""


def env_id(track: str, suite: str, version: int = VERSION) -> str:
    """The id under which a track's limits are set on a suite's scenarios, at the suite's own seeds.

    Args:
        track: one of `TRACKS`.
        suite: one of `suite_ids()`' suites.
        version: the present one can be made; Gymnasium refuses earlier ones and names the present one.
    """
    return f"batchpilot/{track}-{suite}-v{version}"


def earlier_ids(track: str, suite: str) -> list[str]:
    """Ids of the same track and suite before something changed what its scores mean, oldest first.

    Args:
        track: one of `TRACKS`.
        suite: a suite.
    """
    return [env_id(track, suite, version) for version in range(VERSION)]


def suite_ids() -> dict[str, tuple[str, str]]:
    """Track and suite of every id that stands for them; the suites of real engines have none."""
    simulated = [suite for suite in suites() if not suite.endswith("-torch")]
    return {env_id(track, suite): (track, suite) for track in TRACKS for suite in simulated}


def register_envs() -> None:
    """Register `batchpilot/Batching-v0`, an id for every track and suite, the queue and the fleet; idempotent."""
    _register(ENV_ID)
    for name, (track, suite) in suite_ids().items():
        _register(name, scenario=suite, track=track, seeds="suite")
    for own_id, home in ((BATCH_SERVICE_ID, "batch_service:BatchServiceEnv"), (FLEET_ID, "fleet.env:FleetEnv")):
        if own_id not in gymnasium.registry:
            gymnasium.register(own_id, entry_point=f"batchpilot.envs.{home}")


def _register(name: str, **arguments: Any) -> None:
    if name not in gymnasium.registry:
        gymnasium.register(
            name,
            entry_point="batchpilot.envs.batching:BatchingEnv",
            vector_entry_point="batchpilot.envs.vector:BatchingVectorEnv",
            kwargs=arguments,
        )

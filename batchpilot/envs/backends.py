"""What executes the steps of a scenario: the simulation, or a real model; the same for environment and leaderboard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from batchpilot.configs.scenario import Scenario
from batchpilot.core.names import lookup
from batchpilot.engines.scheduler.executor import Executor
from batchpilot.engines.simulated.engine import SimulatedEngine
from batchpilot.envs.scenarios import PreparedRun, prepare

SIMULATED = "simulated"


class Backend(Protocol):
    """Where scenarios run."""

    @property
    def origin(self) -> Mapping[str, str]:
        """What a result must say about where it ran; empty where the scenario says it all."""

    def prepare(self, scenario: Scenario, seed: int) -> PreparedRun:
        """Draw a scenario's requests for this backend.

        Args:
            scenario: a catalogued or loaded scenario.
            seed: equal seeds give equal requests.

        Raises:
            ValueError: the scenario cannot run here; the message says why.
        """

    def start(self, run: PreparedRun, *, record_steps: bool = False) -> Executor:
        """An engine at time 0 with a run's requests.

        Args:
            run: what `prepare` returned.
            record_steps: keep start, B, S, C and T of every step.
        """


class SimulatedBackend:
    """Scenarios on the simulated engine, as they are written."""

    @property
    def origin(self) -> Mapping[str, str]:
        """Nothing: rows name device, model and latency already."""
        return {}

    def prepare(self, scenario: Scenario, seed: int) -> PreparedRun:
        """As `envs.scenarios.prepare`.

        Args:
            scenario: a catalogued or loaded scenario.
            seed: equal seeds give equal runs.
        """
        return prepare(scenario, seed)

    def start(self, run: PreparedRun, *, record_steps: bool = False) -> Executor:
        """A simulated engine at time 0.

        Args:
            run: what `prepare` returned.
            record_steps: keep start, B, S, C and T of every step.
        """
        return SimulatedEngine(run.engine, run.requests, record_steps=record_steps)


def make_backend(name: str, options: Mapping[str, Any] | None = None) -> Backend:
    """A backend by name.

    Args:
        name: one of `BACKENDS`.
        options: of the torch backend, see `envs.torch_backend.TorchOptions`; the simulation has none.

    Raises:
        ValueError: an unknown name or option, torch is missing, or the model cannot be served as asked.
    """
    return lookup(BACKENDS, name, "backend")(dict(options or {}))


def _simulated(options: Mapping[str, Any]) -> Backend:
    if options:
        raise ValueError(
            f"backend_options {', '.join(options)} were given with backend 'simulated', which has none: "
            "device and model come from the scenario"
        )
    return SimulatedBackend()


def _torch(options: Mapping[str, Any]) -> Backend:
    from batchpilot.envs.torch_backend import TorchOptions

    return TorchOptions.from_mapping(options).start()


BACKENDS: dict[str, Callable[[Mapping[str, Any]], Backend]] = {SIMULATED: _simulated, "torch": _torch}
"""What makes a backend of its options, by name."""

"""What `tune` searches on: a scenario's simulated engine or the torch engine, each with one for unseen seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from batchpilot.configs.scenario import Scenario
from batchpilot.latency.model.parameter_file import read_parameters
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.selection import Changes
from batchpilot.runners.stated import promise_of, stated
from batchpilot.runners.torch.calibration import TorchServer, labels_of
from batchpilot.runners.tuning.bench import Bench, SimulatedBench, TorchBench


@dataclass(frozen=True)
class Benches:
    """Where trials run.

    Attributes:
        scenario: what is asked of the engine.
        known: of the seeds that are tuned on.
        unseen: of the seeds that the limits are checked on.
        served: promise, load and server in words.
    """

    scenario: Scenario
    known: Bench
    unseen: Bench
    served: Mapping[str, Any]


def benches_of(
    server: TorchServer | None, named: Scenario, changes: Changes, objective: str, seed: int, requests: int
) -> Benches:
    """Benches of what a command line asks for.

    Args:
        server: the torch engine; None for the simulated one.
        named: scenario, as it is called.
        changes: to be made in it.
        objective: one of `OBJECTIVES`, or several separated by commas.
        seed: whose run is described; also of a torch engine.
        requests: most that a run of a torch engine serves.

    Raises:
        ValueError: the scenario cannot run there, or a file is wrong.
        OSError: a file cannot be read.
    """
    if server is None:
        return simulated_benches(changes.of(named), objective, seed)
    asked = changes.without_hardware().of(named)
    return torch_benches(replace(server, seed=seed), asked, objective, requests, changes.parameters)


def simulated_benches(scenario: Scenario, objective: str, seed: int) -> Benches:
    """Benches of a scenario's own engine.

    Args:
        scenario: with every change asked for.
        objective: one of `OBJECTIVES`, or several separated by commas.
        seed: whose run is described.
    """
    served = stated(SimulatedBench(scenario).prepared(seed))
    return Benches(scenario, SimulatedBench(scenario, objective), SimulatedBench(_after(scenario), objective), served)


def torch_benches(
    server: TorchServer, scenario: Scenario, objective: str, requests: int, parameters: Path | None
) -> Benches:
    """Benches of a torch engine, which is started and warmed up.

    Args:
        server: how it runs; its seed is also that whose requests are described.
        scenario: whose requests it serves.
        objective: one of `OBJECTIVES`.
        requests: most of them in a run.
        parameters: file of its step latency; None takes the warm-up's.
    """
    runner = server.start()
    known = SaturationParameters.from_yaml(parameters) if parameters is not None else runner.latency
    source = "the runner's warm-up" if parameters is None else read_parameters(parameters).estimate.provenance
    bench = TorchBench(runner, known, scenario, requests, objective)
    served = {
        "promise": promise_of(bench.asked(server.seed)),
        "load": f"at most {requests} requests of {scenario.name}",
    }
    served |= labels_of(server, runner) | {"dtype": server.dtype, "latency": source}
    return Benches(scenario, bench, TorchBench(runner, known, _after(scenario), requests, objective), served)


def _after(chosen: Scenario) -> Scenario:
    """What unseen seeds run on: for a part of a trace, which no seed changes, as long a part after it."""
    trace = chosen.workload.trace
    if trace is None or trace.duration_s is None:
        return chosen
    return chosen.with_trace(start_s=trace.start_s + trace.duration_s)

"""What is sent and what stands beside it: a simulation of catalogued hardware, or an engine of this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from batchpilot.baselines import SERVER_DEFAULT, Setting
from batchpilot.configs.scenario import Scenario
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core.limits import Limits
from batchpilot.core.tuner import Tuner
from batchpilot.engines import SimulationResult
from batchpilot.envs.scenarios import PreparedRun, prepare
from batchpilot.runners.http.load.own_engine import OwnEngine, OwnTuner
from batchpilot.runners.http.load.part import Part
from batchpilot.runners.http.load.simulating import simulated
from batchpilot.runners.leaderboard.evaluation import tightest_slo
from batchpilot.runners.leaderboard.strategies import make_strategy
from batchpilot.runners.selection import Changes, chosen_tuner, find_tuner_config, parse_limits
from batchpilot.runners.torch.backends import shown_calibration, start_backend
from batchpilot.runners.torch.calibration import TorchServer
from batchpilot.serving.load.flight import check_some
from batchpilot.tuners import DEFAULT_TUNER
from batchpilot.workloads.table import RequestTable


@dataclass(frozen=True, slots=True)
class Decides:
    """Who sets the limits of the columns, as typed.

    Attributes:
        tuner: its name.
        track: the fields it may move.
        config: file of its configuration.
        limits: constant ones instead.
    """

    tuner: str | None
    track: str
    config: Path | None
    limits: str | None

    def named(self) -> tuple[str, TunerConfig]:
        """The tuner's name, and its configuration.

        Raises:
            ValueError: the file is wrong.
            OSError: it cannot be read.
        """
        section = find_tuner_config(None if self.config is None else str(self.config))
        return chosen_tuner(self.tuner, self.config, section, DEFAULT_TUNER), section

    def strategy(self, run: PreparedRun) -> Limits | Tuner:
        """What the simulation of catalogued hardware runs with.

        Args:
            run: the simulation.

        Raises:
            ValueError: a name is unknown, or a text or a file is wrong.
            OSError: a file cannot be read.
        """
        if self.limits is not None:
            return parse_limits(self.limits)
        if self.tuner is None and self.config is None:
            return SERVER_DEFAULT
        tuner, section = self.named()
        latency = run.engine.believed_latency()
        known = Setting(section, SERVER_DEFAULT, tightest_slo(run), run.seed, self.track, latency)
        return make_strategy(tuner, known)


@dataclass(frozen=True, slots=True)
class Sending:
    """How the requests of a run are sent.

    Attributes:
        part: of them.
        with_images: whether prompts may have images.
        seed: of workload, prompts and tuner.
        grace_s: how long answers are waited for after the last one.
    """

    part: Part
    with_images: bool
    seed: int
    grace_s: float

    def cut(self, run: PreparedRun) -> RequestTable:
        """Those of a run that are sent.

        Args:
            run: the run.

        Raises:
            ValueError: there are none, or they cannot be sent so.
        """
        sent = self.part.of(run.requests)
        check_some(sent, with_images=self.with_images)
        return sent


@dataclass(frozen=True, slots=True)
class Ready:
    """What is sent, and what may stand beside it.

    Attributes:
        run: whose requests they are.
        sent: those that are sent.
        simulate: gives the simulated column.
        tuner: that sets the limits of the columns, None for none that was named.
        own: the engine of this machine, None for none.
    """

    run: PreparedRun
    sent: RequestTable
    simulate: Callable[[], SimulationResult]
    tuner: str | None
    own: OwnEngine | None = None

    def asked(
        self, url: str | None, part: Part, changes: Changes, decides: Decides, backend: str, *, compare: bool
    ) -> dict[str, Any]:
        """What the command was told, for the record.

        Args:
            url: of the server; None where one was started.
            part: of the requests.
            changes: in the scenario.
            decides: who set the limits.
            backend: what ran the steps.
            compare: whether columns stood beside the server's.
        """
        known = compare or self.own is not None
        return {
            "url": url,
            "scenario": self.run.scenario.model_dump(),
            "rate": part.rate,
            "requests_per_s": part.requests_per_s,
            "start_s": part.start_s,
            "duration_s": part.duration_s,
            "ttft_ms": changes.ttft_ms,
            "tpot_ms": changes.tpot_ms,
            "limits": decides.limits,
            "backend": backend,
            "tuner": self.tuner,
            "track": decides.track,
            "latency": self.run.latency_provenance if known else None,
        }


def on_catalogued(chosen: Scenario, sending: Sending, decides: Decides) -> Ready:
    """Beside catalogued hardware, simulated.

    Args:
        chosen: the scenario, with every change asked for.
        sending: how its requests are sent.
        decides: who sets the limits of the simulation.

    Raises:
        ValueError: the scenario cannot be prepared or sent so.
        OSError: a file cannot be read.
    """
    run = prepare(chosen, sending.seed)
    sent = sending.cut(run)
    strategy = decides.strategy(run)
    simulate = partial(simulated, run.engine, sent, strategy, window_ms=run.window_ms, grace_s=sending.grace_s)
    return Ready(run, sent, simulate, decides.tuner)


def on_own_engine(
    server: TorchServer, parameters: Path | None, chosen: Scenario, sending: Sending, decides: Decides
) -> Ready:
    """Beside an engine of this machine, which is started. Nothing of it is held here but by the engine itself.

    Args:
        server: the model and how it runs.
        parameters: what `calibrate --out` wrote; None calibrates now.
        chosen: the scenario, with every change asked for.
        sending: how its requests are sent.
        decides: who sets the limits.

    Raises:
        ValueError: the engine cannot be started, or the scenario cannot be prepared or sent so.
        OSError: a file cannot be read.
    """
    loaded = start_backend(server, parameters=parameters, seed=sending.seed, show=shown_calibration)
    run = loaded.prepare(chosen, sending.seed)
    sent = sending.cut(run)
    tuner, _ = decides.named()
    own = OwnEngine(server, loaded, run, sent, OwnTuner(tuner, decides.track, decides.config), sending.seed)
    return Ready(run, sent, partial(own.simulated, sending.grace_s), tuner, own)

"""What the routes share: the engine, its session, the tuner's control, and how the server is set up."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from batchpilot.core import SLO
from batchpilot.core.slo import SLO_CLASSES
from batchpilot.serving.doors.bodies import MOST_MB
from batchpilot.serving.rollout.control import TunerControl
from batchpilot.serving.server.engine_loop import EngineLoop
from batchpilot.serving.server.history import History
from batchpilot.serving.server.metrics import ServerMetrics
from batchpilot.serving.server.text import Text
from batchpilot.serving.session.session import TunerSession


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How a server answers.

    Attributes:
        model: the name that clients ask for.
        slo: the promise of requests that name neither a class nor targets.
        timeout_s: requests that do not say are given up after so long.
        body_s: a request's body must have come within so long; a policy's within four times that.
        bodies_mb: what bodies of requests hold in memory, all together, until their requests are answered; at least one
            of the largest finds room.
        stall_s: the engine counts as stalled when a step takes longer.
        grace_s: after SIGTERM running requests may finish for so long.
        token: needed to change the tuner; None where only this machine can reach the server.
        seed: of the draws of requests that bring no seed.
    """

    model: str
    slo: SLO = field(default_factory=SLO)
    timeout_s: float = 600.0
    body_s: float = 30.0
    bodies_mb: float = MOST_MB
    stall_s: float = 30.0
    grace_s: float = 20.0
    token: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("timeout_s", "body_s", "bodies_mb", "stall_s", "grace_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")

    def promise(self, slo: str | None, ttft_ms: float | None, tpot_ms: float | None) -> SLO:
        """The promise of a request.

        Args:
            slo: the class it names.
            ttft_ms: instead of the class's.
            tpot_ms: likewise.
        """
        of_class = self.slo if slo is None else SLO_CLASSES[slo]
        return SLO(ttft_ms or of_class.ttft_ms, tpot_ms or of_class.tpot_ms, slo or "of the request")


@dataclass
class Service:
    """A server's parts.

    Attributes:
        config: how it answers.
        engine: the thread that runs the model.
        session: makes windows and holds limits.
        control: the operator's hand on the tuner.
        text: from text to tokens and back.
        metrics: what is counted.
        history: the last windows.
        clock: seconds, the engine's.
        draining: whether it is shutting down and takes no new request.
        seeds: of requests that bring none.
        started: seconds since the epoch.
    """

    config: ServerConfig
    engine: EngineLoop
    session: TunerSession
    control: TunerControl
    text: Text
    metrics: ServerMetrics
    history: History
    clock: Callable[[], float]
    draining: bool = False
    seeds: itertools.count[int] = field(default_factory=itertools.count)
    started: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.seeds = itertools.count(self.config.seed << 32)

    @property
    def trouble(self) -> str | None:
        """What keeps it from serving, None if nothing does."""
        if self.engine.failure is not None:
            return f"the engine has ended: {self.engine.failure}"
        if self.engine.stalled_s > self.config.stall_s:
            return f"the engine has been in one step for {self.engine.stalled_s:.0f} s"
        return None

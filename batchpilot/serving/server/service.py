"""What the routes share: the engine, its session, and the tuner's control."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from batchpilot.serving.rollout.control import TunerControl
from batchpilot.serving.server.config import ServerConfig
from batchpilot.serving.server.engine_loop import EngineLoop
from batchpilot.serving.server.history import History
from batchpilot.serving.server.metrics import ServerMetrics
from batchpilot.serving.server.text import Text
from batchpilot.serving.session.session import TunerSession


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

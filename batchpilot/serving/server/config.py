"""How a server answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from batchpilot.core.slo import SLO, SLO_CLASSES
from batchpilot.serving.doors.bodies import MOST_MB


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
        batch_folder: where the Batch API keeps its files and batches; None for no such API.
        vision: whether messages may hold images.
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
    batch_folder: Path | None = None
    vision: bool = False

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

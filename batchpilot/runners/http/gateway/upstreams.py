"""What is typed of several upstreams, read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from batchpilot.core.names import lookup
from batchpilot.fleet.scalers import SCALERS, Predictive, Scaler
from batchpilot.serving.gateway.upstreams.desired import DesiredReplicas
from batchpilot.serving.gateway.upstreams.spec import FleetSettings, UpstreamSpec, parse_upstream, read_upstreams

GATEWAY_SCALERS = tuple(name for name in SCALERS if name != "clairvoyant")
"""A gateway does not know the future."""


def chosen_upstreams(typed: Sequence[str], file: Path | None) -> tuple[UpstreamSpec, ...]:
    """The upstreams, one or more.

    Args:
        typed: each `--upstream`.
        file: of `--upstreams`.

    Raises:
        ValueError: none, or both ways at once.
    """
    if bool(typed) == (file is not None):
        raise ValueError("say --upstream http://127.0.0.1:8000, once or more often, or --upstreams FILE, and not both")
    return read_upstreams(file) if file is not None else tuple(parse_upstream(text) for text in typed)


def pair(text: str, name: str, shape: str) -> tuple[float, float]:
    """Two numbers with a comma between.

    Args:
        text: as typed.
        name: of the option.
        shape: for the message.

    Raises:
        ValueError: something else.
    """
    first, _, second = text.partition(",")
    try:
        return float(first), float(second)
    except ValueError:
        raise ValueError(f"{name} is {text!r}; write {shape}") from None


def parse_shares(text: str) -> dict[int, float]:
    """Shares of an experiment by version: `1=0.9,2=0.1`.

    Args:
        text: as typed.

    Raises:
        ValueError: something else.
    """
    try:
        parts = (part.partition("=") for part in text.split(","))
        return {int(version): float(share) for version, _, share in parts}
    except ValueError:
        raise ValueError(f"experiment is {text!r}; write VERSION=SHARE,VERSION=SHARE, as 1=0.9,2=0.1") from None


def parse_versions(text: str) -> tuple[int, int]:
    """The versions of a roll-out: `1,2`.

    Args:
        text: as typed.

    Raises:
        ValueError: something else.
    """
    old, _, new = text.partition(",")
    try:
        return int(old), int(new)
    except ValueError:
        raise ValueError(f"canary is {text!r}; write OLD,NEW, two versions of upstreams, as 1,2") from None


def gateway_scaler(name: str, tokens_per_replica_s: float | None) -> Scaler:
    """The scaler of that name.

    Args:
        name: one of `GATEWAY_SCALERS`.
        tokens_per_replica_s: what one upstream serves, for `predictive`.

    Raises:
        ValueError: no such scaler, or `predictive` without what it needs.
    """
    made = lookup({known: SCALERS[known] for known in GATEWAY_SCALERS}, name, "scaler")
    if made is not Predictive:
        return made()
    if tokens_per_replica_s is None or not tokens_per_replica_s > 0:
        raise ValueError("--scaler predictive needs --replica-tokens-per-s above 0, what one upstream serves")
    return Predictive(tokens_per_replica_s)


def desired_replicas(scaler: str, tokens_per_replica_s: float | None, bounds: str) -> DesiredReplicas:
    """What says how many upstreams there should be.

    Args:
        scaler: one of `GATEWAY_SCALERS`.
        tokens_per_replica_s: what one upstream serves, for `predictive`.
        bounds: the least and the most, as typed.

    Raises:
        ValueError: no such scaler, it lacks what it needs, or the bounds are none.
    """
    least, most = pair(bounds, "replicas", "LEAST,MOST")
    return DesiredReplicas(gateway_scaler(scaler, tokens_per_replica_s), int(least), int(most))


@dataclass(frozen=True, slots=True)
class Sharing:
    """How several upstreams share the requests, as typed.

    Attributes:
        router: which of them takes a request.
        retries: others that a request tries before it has begun.
        health_s: between health checks, 0 for none.
        breaker: failures in a row, and s that an upstream is left alone then.
        degrade: multiple of the TTFT promise beyond which tier 1 answers.
        experiment: shares of the users by version.
        canary: versions of a roll-out.
    """

    router: str
    retries: int
    health_s: float
    breaker: str
    degrade: float
    experiment: str | None
    canary: str | None

    def among(self, upstreams: tuple[UpstreamSpec, ...]) -> FleetSettings | None:
        """How these share them; None where there is one, and nothing to share.

        Args:
            upstreams: one or more.

        Raises:
            ValueError: a text cannot be read, or a value is out of bounds.
        """
        if len(upstreams) < 2:
            return None
        failures, breaker_s = pair(self.breaker, "breaker", "FAILURES,SECONDS")
        return FleetSettings(
            upstreams,
            router=self.router,
            retries=self.retries,
            breaker_failures=int(failures),
            breaker_s=breaker_s,
            health_s=self.health_s,
            degrade=self.degrade,
            experiment=parse_shares(self.experiment) if self.experiment else {},
            canary=parse_versions(self.canary) if self.canary else None,
        )

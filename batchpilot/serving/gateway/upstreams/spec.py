"""What is told of several upstreams: each one's address, weight, version and tier, and how they share the requests."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from batchpilot.core.names import lookup, unknown_name
from batchpilot.fleet.routers import RULES

PREFIX, USER_HASH = "prefix", "user-hash"

ROUTERS: Mapping[str, int] = {
    **RULES,
    USER_HASH: RULES["least-requests"],
}
"""Rules by the name that users type. `user-hash` keeps each user at one upstream, and sends those without a name where
the fewest requests are."""


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """One upstream.

    Attributes:
        url: its base address.
        weight: its share beside the others, > 0.
        version: of its model or setting, for experiments and roll-outs, >= 0.
        tier: 0 for the model that is asked, 1 for a smaller one that answers when every tier 0 would be late.
        model: put in place of the `model` that a request names; "" leaves it.
        api_key_env: environment variable whose key goes to this upstream in place of the client's; "" leaves it.

    Raises:
        ValueError: a value is out of bounds.
    """

    url: str
    weight: float = 1.0
    version: int = 0
    tier: int = 0
    model: str = ""
    api_key_env: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight of {self.url} is {self.weight}; it must be above 0")
        if self.version < 0:
            raise ValueError(f"version of {self.url} is {self.version}; it must be >= 0")
        if self.tier not in (0, 1):
            raise ValueError(f"tier of {self.url} is {self.tier}; it must be 0 or, for a smaller model, 1")
        if self.api_key_env and not os.environ.get(self.api_key_env):
            raise ValueError(f"api_key_env of {self.url} names {self.api_key_env}, which the environment lacks")

    @property
    def api_key(self) -> str | None:
        """The key of its environment variable, None without one."""
        return os.environ[self.api_key_env] if self.api_key_env else None


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """How several upstreams share the requests.

    Attributes:
        upstreams: two or more.
        router: a key of `ROUTERS`.
        retries: other upstreams that a request tries while nothing was sent to its client, >= 0.
        breaker_failures: failures in a row after which an upstream is left alone, >= 1.
        breaker_s: for so long; then one request tries it.
        health_s: between two checks of an upstream, 0 for none.
        health_failures: failed checks in a row that take it out, >= 1; one good check takes it in again.
        degrade: multiple of its TTFT promise beyond which a request goes to tier 1 when every tier 0 is predicted so
            late.
        experiment: share of the users by version; empty for no experiment.
        canary: the version that users have and the one that they shall have, by a roll-out from the start; None for
            none.
        user_header: whose value is the user where the body names none.
        ladder_s: how long each share of a roll-out stands.

    Raises:
        ValueError: a value is out of bounds.
    """

    upstreams: tuple[UpstreamSpec, ...]
    router: str = "least-tokens"
    retries: int = 2
    breaker_failures: int = 5
    breaker_s: float = 10.0
    health_s: float = 2.0
    health_failures: int = 2
    degrade: float = 1.0
    experiment: Mapping[int, float] = field(default_factory=dict)
    canary: tuple[int, int] | None = None
    user_header: str = "x-user"
    ladder_s: float = 60.0

    def __post_init__(self) -> None:
        lookup(ROUTERS, self.router, "routing rule")
        for name, least in (("retries", 0), ("breaker_failures", 1), ("health_failures", 1), ("health_s", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be >= {least}")
        for name in ("breaker_s", "degrade", "ladder_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        urls = [upstream.url.rstrip("/") for upstream in self.upstreams]
        twice = sorted({url for url in urls if urls.count(url) > 1})
        if twice:
            raise ValueError(f"upstream {twice[0]} is named twice; give it a weight instead")
        if all(upstream.tier for upstream in self.upstreams):
            raise ValueError("every upstream is of tier 1; at least one must have tier 0, the model that is asked")
        known = {upstream.version for upstream in self.upstreams}
        if self.experiment and not set(self.experiment) <= known:
            raise ValueError(f"experiment names versions {sorted(self.experiment)}; upstreams have {sorted(known)}")
        if self.canary is not None and not (set(self.canary) <= known and len(set(self.canary)) == 2):
            raise ValueError(
                f"canary goes from version {self.canary[0]} to {self.canary[1]}; upstreams have {sorted(known)}"
            )
        if self.canary is not None and self.experiment:
            raise ValueError("an experiment and a canary at once: each decides a user's version; leave one out")
        if any(share < 0 for share in self.experiment.values()) or (
            self.experiment and not sum(self.experiment.values()) > 0
        ):
            raise ValueError(f"shares of the experiment are {dict(self.experiment)}; they must be >= 0, one above 0")


_FIELDS = {field.name for field in fields(UpstreamSpec)}
_KINDS = {"weight": float, "version": int, "tier": int}


def parse_upstream(text: str) -> UpstreamSpec:
    """One upstream as typed: `http://127.0.0.1:8000,weight=2,version=1,tier=1`.

    Args:
        text: as typed.

    Raises:
        ValueError: no such setting, or a value out of bounds.
    """
    url, *settings = text.split(",")
    pairs = [setting.partition("=") for setting in settings]
    return _spec({"url": url, **{name.strip(): value.strip() for name, _, value in pairs}}, f"upstream {text!r}")


def read_upstreams(path: Path) -> tuple[UpstreamSpec, ...]:
    """Upstreams from a YAML file: a list, or a mapping with the list under `upstreams`.

    Args:
        path: of the file.

    Raises:
        ValueError: the file holds something else.
        OSError: it cannot be read.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML ({error})") from None
    listed = data.get("upstreams") if isinstance(data, dict) else data
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise ValueError(f"{path} lists no upstreams; write '- url: http://127.0.0.1:8000' for each")
    entries = [{"url": entry} if isinstance(entry, str) else entry for entry in listed]
    return tuple(_spec(entry, f"upstream {number + 1} of {path}") for number, entry in enumerate(entries))


def _spec(entry: object, where: str) -> UpstreamSpec:
    if not isinstance(entry, dict) or not isinstance(entry.get("url"), str):
        raise ValueError(f"{where} is {entry!r}; it needs a url, and may have {', '.join(sorted(_FIELDS - {'url'}))}")
    unknown = [str(name) for name in entry if name not in _FIELDS]
    if unknown:
        raise ValueError(f"{where}: {unknown_name(unknown[0], sorted(_FIELDS), 'setting of an upstream')}")
    told: dict[str, Any] = {}
    for name, value in entry.items():
        kind = _KINDS.get(name, str)
        try:
            told[name] = kind(value)
        except (TypeError, ValueError):
            raise ValueError(f"{where}: {name} is {value!r}; it must be {kind.__name__}") from None
    return UpstreamSpec(**told)

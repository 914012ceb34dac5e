"""What a gateway is told once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from batchpilot.core import SLO
from batchpilot.core.tenants import TenantTerms
from batchpilot.fleet.rate_limit import RateLimit
from batchpilot.serving.doors.bodies import MOST_MB
from batchpilot.serving.recording import LARGEST_MB
from batchpilot.serving.texts import TokenCount, count_by_bytes

COMPLETION_PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages")
"""Requests that wait at the gate; everything else goes straight through."""

NOT_HELD = (
    *("token_budget", "max_wait_ms", "delay_factor", "max_padding_tokens", "max_padding_share"),
    "speculative_tokens",
)
"""Limits that a gateway cannot hold: they belong to the upstream's steps."""

RECORD_FILE = Path("batchpilot-steps.csv")
"""In the folder where the gateway was started."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Where the upstream is and what is promised.

    Attributes:
        upstream: its base address, `http://host:port` or with a path.
        slo: the promise of requests that name no class.
        count_tokens: tokens of a text.
        paths: what waits at the gate.
        connect_timeout_s: how long a connection may take.
        silence_timeout_s: how long the upstream may say nothing once a request is sent; None for ever.
        poll_s: how often the upstream's `/metrics` are read, 0 for never.
        largest_body_mb: a completion request beyond this is refused; others are not held in memory.
        bodies_mb: what bodies hold in memory, all together, those of requests that wait included; a request for whose
            body there is no room is refused. At least one of the largest finds room.
        body_s: a completion request's body must have come within so long; others may take as much longer as they have
            bytes, at `LEAST_BYTES_PER_S`.
        cache_tokens: what the upstream's KV cache holds, for one that ends its requests with an error when it is full:
            llama.cpp's `--ctx-size` with a unified cache. None to learn it the first time.
        live_limits: whether the upstream's own scheduler is told the limits, where it can be told.
        token: needed to change the tuner of an upstream of ours, and to begin or end a recording; None where only this
            machine may ask the gateway.
        api_key: shown to the upstream when it is asked which models it has.
        record: where the upstream's steps are written from the start; None for `RECORD_FILE`, once somebody asks.
        record_mb: of that file and the one before it together.
        late_log: where requests that were late or failed are written, None for nowhere.
        tenants: terms by user, as requests name theirs; a ceiling counts what is at one engine.
        rate_limit: of each API key, None for none.

    Raises:
        ValueError: no address of an HTTP server, or a number out of bounds.
    """

    upstream: str
    slo: SLO = field(default_factory=SLO)
    count_tokens: TokenCount = count_by_bytes
    paths: tuple[str, ...] = COMPLETION_PATHS
    connect_timeout_s: float = 5.0
    silence_timeout_s: float | None = 600.0
    poll_s: float = 1.0
    largest_body_mb: float = 32.0
    bodies_mb: float = MOST_MB
    body_s: float = 30.0
    cache_tokens: int | None = None
    live_limits: bool = False
    token: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    record: Path | None = None
    record_mb: float = LARGEST_MB
    rate_limit: RateLimit | None = None
    late_log: Path | None = None
    tenants: Mapping[str, TenantTerms] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "@" in self.upstream:
            raise ValueError(
                "upstream has a user name or password in it, which would be told in the status and in answers, and not "
                "be sent; leave it out (http://host:port): a client's own Authorization header goes through"
            )
        address = urlsplit(self.upstream)
        if address.scheme not in ("http", "https") or not address.hostname or address.query or address.fragment:
            told = self.upstream.partition("?")[0].partition("#")[0]
            raise ValueError(
                f"upstream is {told!r}; it must be the address of a server and no more: http://127.0.0.1:8000"
            )
        if address.path.rstrip("/").endswith("/v1"):
            raise ValueError(f"upstream is {self.upstream!r}; leave out /v1, which is part of every request's path")
        for name in ("connect_timeout_s", "silence_timeout_s", "largest_body_mb", "bodies_mb", "body_s", "record_mb"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; it must be above 0")
        if self.cache_tokens is not None and self.cache_tokens < 1:
            raise ValueError(f"cache_tokens is {self.cache_tokens}; it must be >= 1, or left out to be learned")
        if not (math.isfinite(self.poll_s) and self.poll_s >= 0):
            raise ValueError(f"poll_s is {self.poll_s}; it must be >= 0 s, 0 for never")

"""Limits that the upstream can be told while it runs: then its own scheduler holds them, and nothing is patched.

Two servers have proposed such a door, and neither has it in a release: vLLM `PATCH /v1/runtime_config` with
`max_num_running_seqs` (its pull request 54816, where development mode is on), SGLang more keys of its
`POST /set_internal_state` (37661: `max_running_requests`, `chunked_prefill_size`; release 0.5.23 refuses them). Which
one is there is asked; a server with neither is asked once. What the upstream was started with bounds what it is told,
and it gets that back when the gateway ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from batchpilot.core import Limits
from batchpilot.core.files import json_text
from batchpilot.serving.gateway.connection import UpstreamError
from batchpilot.serving.gateway.upstream import Outgoing, Upstream

_MOST_BYTES = 2**24
_JSON = (b"content-type", b"application/json")


@dataclass(frozen=True, slots=True)
class Door:
    """How one server is told.

    Attributes:
        server: its name.
        asked: the path that says what it was started with.
        started: reads the limits that it was started with, by our name; None where it has no such door.
        method: of telling.
        path: of telling.
        body: what is sent for values by our name.
        taken: whether an answer says that they hold.
    """

    server: str
    asked: str
    started: Callable[[Any], dict[str, int] | None]
    method: str
    path: str
    body: Callable[[Mapping[str, int]], Any]
    taken: Callable[[Any], bool]


def _of_vllm(said: Any) -> dict[str, int] | None:
    most = said.get("max_num_seqs") or said.get("max_num_running_seqs") if isinstance(said, Mapping) else None
    return {"batch_size": most} if isinstance(most, int) and "max_num_running_seqs" in said else None


def _of_sglang(said: Any) -> dict[str, int] | None:
    if not isinstance(said, Mapping) or "internal_states" not in said:
        return None
    names = {"batch_size": "max_running_requests", "token_budget": "chunked_prefill_size"}
    found = {ours: said.get(theirs) for ours, theirs in names.items()}
    return {ours: value for ours, value in found.items() if isinstance(value, int) and value > 0} or None


_SGLANG_KEYS = {"batch_size": "max_running_requests", "token_budget": "chunked_prefill_size"}

DOORS = (
    Door(
        "vLLM",
        "/v1/runtime_config",
        _of_vllm,
        "PATCH",
        "/v1/runtime_config",
        lambda told: {"max_num_running_seqs": told["batch_size"]},
        lambda said: True,
    ),
    Door(
        "SGLang",
        "/server_info",
        _of_sglang,
        "POST",
        "/set_internal_state",
        lambda told: {"server_args": {_SGLANG_KEYS[name]: value for name, value in told.items()}},
        lambda said: isinstance(said, list) and bool(said) and all(one is True for one in said),
    ),
)
"""The doors that are known, in the order in which they are tried."""


class LiveLimits:
    """Tells the upstream the tuner's limits, where it can be told.

    Args:
        upstream: the way there.

    Attributes:
        server: whose door was found, None for none so far.
        held: fields of `Limits` that the upstream itself holds now.
    """

    def __init__(self, upstream: Upstream) -> None:
        self.server: str | None = None
        self.held: frozenset[str] = frozenset()
        self._upstream = upstream
        self._door: Door | None = None
        self._started: dict[str, int] = {}
        self._told: dict[str, int] = {}
        self._looked = False

    async def tell(self, limits: Limits) -> None:
        """Tell the upstream what has changed.

        Args:
            limits: in force.

        Raises:
            UpstreamError: it cannot be reached.
        """
        if not self._looked:
            await self._look()
        if self._door is None:
            return
        given = limits.to_dict()
        wanted = {name: min(given[name] or most, most) for name, most in self._started.items()}
        if wanted != self._told:
            await self._say(wanted)

    async def give_back(self) -> None:
        """Tell it what it was started with; nothing where it was told nothing, or has gone."""
        if self._told and self._told != self._started:
            try:
                await self._say(self._started)
            except UpstreamError:
                return

    def forget(self) -> None:
        """The upstream was away: it may be another one, or the same with what it was started with."""
        self.server, self.held = None, frozenset()
        self._door, self._looked, self._told = None, False, {}

    async def _look(self) -> None:
        for door in DOORS:
            status, said = await self._ask("GET", door.asked, None)
            started = door.started(said) if status == 200 else None
            if started is not None:
                self._door, self._started = door, started
                break
        self._looked = True

    async def _say(self, wanted: Mapping[str, int]) -> None:
        assert self._door is not None
        status, said = await self._ask(self._door.method, self._door.path, self._door.body(wanted))
        if status == 200 and self._door.taken(said):
            self.server, self.held, self._told = self._door.server, frozenset(wanted), dict(wanted)
        else:
            self._door, self.held, self.server = None, frozenset(), None

    async def _ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        sent = b"" if body is None else json_text(body).encode()
        reply = await self._upstream.send(Outgoing(method, path.encode(), [_JSON] if sent else [], sent))
        try:
            page = b""
            while len(page) <= _MOST_BYTES and (piece := await reply.piece()):
                page += piece
        finally:
            reply.release()
        try:
            return reply.status, json.loads(page)
        except ValueError:
            return reply.status, None

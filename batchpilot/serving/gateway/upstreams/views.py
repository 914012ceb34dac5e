"""What the rules of routing compare: each upstream as it is at this moment. Times in ms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from batchpilot.serving.gateway.completions import Completion
from batchpilot.serving.gateway.gate import Gate
from batchpilot.serving.gateway.upstreams.site import Site

_LEAST_SLOPE_MS = 1e-3
"""Of a token: where a line is flat only its height counts."""

_PROBE_TOKENS = 1000


@dataclass(slots=True)
class View:
    """One upstream, with the names that `batchpilot.fleet.rules` asks for: see `batchpilot.fleet.arrays.VIEW`.

    `on` says whether it serves the model that is asked.
    """

    weight: float
    version: int
    tier: int
    on: int = 1
    draining: int = 0
    suspected: int = 0
    ready_ms: float = -math.inf
    open_until_ms: float = -math.inf
    credit: float = 0.0
    requests: int = 0
    queued_tokens: int = 0
    sent: int = 0
    sent_tokens: float = 0.0
    full_step_ms: float = 1.0
    full_step_tokens: float = 1.0
    tried_by: int = -1
    held: float = 0.0


def new_views(sites: Sequence[Site]) -> list[View]:
    """Views of upstreams that nobody has looked at.

    Args:
        sites: the upstreams.
    """
    return [View(site.spec.weight, site.spec.version, site.spec.tier) for site in sites]


def look(views: Sequence[View], sites: Sequence[Site], asked: Completion | None, *, predicts: bool) -> None:
    """Bring views up to date for a request.

    With `predicts` a view's full step is a token, and time that no token explains is told in tokens sent there, so that
    the rules that predict weigh all of them.

    Args:
        views: of the sites, changed.
        sites: the upstreams.
        asked: what the request asks for, None for no completion.
        predicts: whether times are compared.
    """
    gates = [gate_for(site, asked) for site in sites]
    model = asked.model if asked is not None else ""
    listed = any(model in site.member.lanes.models for site in sites)
    for view, site, gate in zip(views, sites, gates, strict=True):
        view.on = not listed or _serves(site, model)
        view.suspected = site.health.suspected
        view.open_until_ms = site.breaker.open_until_ms
        view.requests = len(gate.inside) + len(gate.line)
        view.queued_tokens = gate.queued_tokens
    if not predicts:
        return
    lines = [_line(gate) for gate in gates]
    known = [line for line in lines if line is not None]
    # One of which nothing is known yet is taken for one like the others.
    base_ms, slope_ms = (sum(part) / len(known) for part in zip(*known, strict=True)) if known else (0.0, 1.0)
    for view, site, gate, line in zip(views, sites, gates, lines, strict=True):
        base, slope = line or (base_ms, slope_ms)
        base = max(base, gate.longest_silence_ms)
        view.full_step_ms = slope
        view.sent_tokens = base / slope
        view.held = held_tokens(site, asked) if asked is not None else 0.0


def gate_for(site: Site, asked: Completion | None) -> Gate:
    """The gate that a request would pass at an upstream.

    Args:
        site: the upstream.
        asked: what the request asks for, None for no completion.
    """
    lanes = site.member.lanes
    return (lanes.first if asked is None else lanes.of(asked.model)).gate


def held_tokens(site: Site, asked: Completion) -> float:
    """Prompt tokens that an upstream is believed to hold of a request.

    Args:
        site: the upstream.
        asked: what the request asks for.
    """
    if not asked.blocks:
        return 0.0
    return asked.prompt_tokens * site.prefixes.matched(asked.blocks) / len(asked.blocks)


def _serves(site: Site, model: str) -> bool:
    """Whether an upstream answers for a model: it lists it, lists nothing, or puts its own in place."""
    models = site.member.lanes.models
    return bool(site.spec.model) or not models or model in models


def _line(gate: Gate) -> tuple[float, float] | None:
    """Time to a first token with no prompt, and for each token of it; None while too little is known."""
    base_ms = gate.service.first_token_ms(0)
    if math.isnan(base_ms):
        return None
    slope_ms = (gate.service.first_token_ms(_PROBE_TOKENS) - base_ms) / _PROBE_TOKENS
    return base_ms, max(slope_ms, _LEAST_SLOPE_MS)

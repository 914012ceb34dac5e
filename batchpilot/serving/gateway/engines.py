"""Which of an upstream's models share an engine, and the lane of each engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from batchpilot.serving.gateway.lane import Lane

MOST_LANES = 32
"""Engines with a lane of their own; those of further ones share the first."""


def engines_of(listing: object) -> dict[str, str]:
    """The engine of each model that `/v1/models` lists, named after the first of its models.

    A model with a `parent` is an adapter (LoRA) of it and runs in its engine; models with one `root` are names of the
    same weights, which vLLM lists for each `--served-model-name`. All others are engines of their own.

    Args:
        listing: the answer, parsed.
    """
    data = listing.get("data") if isinstance(listing, Mapping) else None
    models = {
        entry["id"]: entry
        for entry in (data if isinstance(data, list) else ())
        if isinstance(entry, Mapping) and isinstance(entry.get("id"), str) and entry["id"]
    }
    roots: dict[str, str] = {}
    for name, entry in models.items():
        if not _parent(entry) and isinstance(entry.get("root"), str) and entry["root"]:
            roots.setdefault(entry["root"], name)

    def engine(name: str, seen: frozenset[str]) -> str:
        entry: Mapping[str, Any] = models.get(name, {})
        parent = _parent(entry)
        if parent and parent not in seen:
            return engine(parent, seen | {parent})
        return roots.get(entry.get("root") or "", name) if isinstance(entry.get("root"), str) else name

    return {name: engine(name, frozenset({name})) for name in models}


def _parent(entry: Mapping[str, Any]) -> str:
    parent = entry.get("parent")
    return parent if isinstance(parent, str) else ""


class Lanes:
    """The lanes of an upstream's engines.

    Args:
        first: of the only engine, or of the first that is listed. Requests that name no model, or one that is not
            listed, go there.
        another: makes a lane for a further engine; None where all models are taken for one engine.

    Attributes:
        first: as given.
        models: the engine of each listed model; empty until a listing was heard.
        unlisted: whether a model was asked since that is not in it.
    """

    def __init__(self, first: Lane, another: Callable[[], Lane] | None = None) -> None:
        self.first = first
        self.models: dict[str, str] = {}
        self._another = another
        self._by_engine: dict[str, Lane] = {}
        self.unlisted = False

    def __iter__(self) -> Iterator[Lane]:
        yield self.first
        yield from (lane for lane in self._by_engine.values() if lane is not self.first)

    @property
    def several(self) -> bool:
        """Whether there is more than one lane."""
        return any(lane is not self.first for lane in self._by_engine.values())

    @property
    def may_grow(self) -> bool:
        """Whether engines get lanes of their own, so that a listing tells anything."""
        return self._another is not None

    def of(self, model: str) -> Lane:
        """The lane of a request.

        Args:
            model: as the request names it, "" where it does not.
        """
        engine = self.models.get(model)
        if engine is None:
            self.unlisted = self.unlisted or bool(model and self.models)
            return self.first
        return self._by_engine.get(engine, self.first)

    def models_of(self, lane: Lane) -> Collection[str]:
        """The models of a lane's engine.

        Args:
            lane: one of these.
        """
        return {model for model, engine in self.models.items() if self._by_engine.get(engine) is lane}

    async def hear_listing(self, listing: object) -> None:
        """The upstream has listed its models; lanes stay when their models go, since they may come back.

        Args:
            listing: the answer, parsed.
        """
        self.unlisted = False
        models = engines_of(listing)
        engines = dict.fromkeys(models.values())
        if len(engines) == 1 and not self.several:  # whatever its name was before: it may have been started anew
            self._by_engine = {next(iter(engines)): self.first}
        elif self._another is not None:
            for engine in engines:
                if engine not in self._by_engine and len(self._by_engine) < MOST_LANES:
                    # Some tuners plan as they are made, and streams must not wait for it.
                    lane = await asyncio.to_thread(self._another) if self._by_engine else self.first
                    self._by_engine[engine] = lane
        for engine, lane in self._by_engine.items():
            lane.name = engine if self.several else ""
        self.models = models

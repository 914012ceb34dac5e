"""The same replicas split into a pool that prefills and one that decodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from batchpilot.configs.catalogue import model as find_model
from batchpilot.configs.footprint import kv_bytes_per_token
from batchpilot.core.names import lookup
from batchpilot.fleet.spec import Link, ReplicaSpec

LINK_GB_PER_S, LINK_MS = 25.0, 1.0
"""Of a link of which nothing is said: 200 Gb/s, as one port of a fast network has."""


def split(specs: Sequence[ReplicaSpec], prefill: Mapping[str, int]) -> list[ReplicaSpec]:
    """Kinds of replicas of which some prefill and the others decode; those that prefill come first.

    Args:
        specs: kinds that serve whole requests.
        prefill: how many prefill, by kind; of kinds that are left out none.

    Raises:
        ValueError: an unknown kind, more of a kind than there are, or nobody left to decode.
    """
    by_name = {spec.name: spec for spec in specs}
    for name, count in prefill.items():
        there = lookup(by_name, name, "kind of replica").count
        if not 1 <= count <= there:
            raise ValueError(f"{count} replicas of {name} shall prefill; it must be 1 to {there}")
    decode = {spec.name: spec.count - prefill.get(spec.name, 0) for spec in specs}
    if not prefill or not any(decode.values()):
        raise ValueError(f"prefill {dict(prefill)} of {sum(one.count for one in specs)} leaves a pool empty")
    pools = (("prefill", prefill), ("decode", decode))
    return [
        replace(spec, name=f"{spec.name} {role}", role=role, count=counts[spec.name])
        for role, counts in pools
        for spec in specs
        if counts.get(spec.name)
    ]


def link_for(model: str, bandwidth_gb_per_s: float = LINK_GB_PER_S, latency_ms: float = LINK_MS) -> Link:
    """What moves a model's KV; a replica of several devices sends all of it over one link.

    Args:
        model: as catalogued.
        bandwidth_gb_per_s: of a replica.
        latency_ms: until decoding may begin.

    Raises:
        ValueError: a value is outside its bound.
    """
    return Link(bandwidth_gb_per_s, kv_bytes_per_token(find_model(model)), latency_ms)

"""Which upstream is a user's: the same one in every process, and for most users still when others come and go."""

from __future__ import annotations

import math
from collections.abc import Mapping

from batchpilot.serving.gateway.upstreams.experiment import place
from batchpilot.serving.gateway.upstreams.site import Site


def home_of(user: str, sites: Mapping[int, Site]) -> int:
    """The upstream of a user by weighted rendezvous hashing, -1 for none.

    Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998; the weighted form draws an
    exponential time of the weight's rate for each upstream, and the earliest wins.

    Args:
        user: any text but "".
        sites: upstreams by their place.
    """

    def earliest(index: int) -> float:
        site = sites[index]
        return -math.log1p(-place(f"{user} {site.name}")) / site.spec.weight

    return min(sites, key=earliest, default=-1)

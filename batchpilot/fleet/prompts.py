"""What requests bring to a fleet besides their lengths: beginnings that they have in common, and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.engines.scheduler.state import CHAIN, IMAGE, SchedulerState
from batchpilot.engines.simulated.loading import (
    chain_records,
    contents_of,
    image_records,
    put_empty_cache,
    put_tower,
)
from batchpilot.fleet.arrays import DECODE
from batchpilot.fleet.spec import ROLES, ReplicaSpec
from batchpilot.workloads.table import RequestTable


class Prompts:
    """What replicas have to know of requests that any of them may get.

    A replica that only decodes encodes no images: prompts come to it as KV.

    Args:
        specs: kinds of replicas.
        requests: of the run.

    Attributes:
        blocks: contents of blocks that there are, 0 without a prefix cache; a replica's table needs twice as many rows.
        image_rows: rows that its table of images needs, 0 without images.
        chains: as `FleetArrays` has them.
        images: likewise.
    """

    def __init__(self, specs: Sequence[ReplicaSpec], requests: RequestTable) -> None:
        self._specs = specs
        self._contents = [contents_of(spec.engine, requests) for spec in specs]
        self._encodes = [ROLES[spec.role] != DECODE and requests.images is not None for spec in specs]
        self.blocks = max((one.room for one in self._contents if one is not None), default=0)
        self.chains: Any = np.zeros((len(specs) if self.blocks else 0, len(requests)), CHAIN)
        for kind, contents in enumerate(self._contents):
            if contents is not None:
                self.chains[kind] = chain_records(contents)
        self.chains = self.chains.view(np.recarray)
        shown: NDArray[Any] = np.zeros(0, IMAGE) if requests.images is None else image_records(requests.images)
        self.images: Any = shown.view(np.recarray)
        self._most = 1 if requests.images is None else requests.images.most
        self.image_rows = int(shown["number"].max(initial=-1)) + 1

    def put(self, state: SchedulerState, i: int, kind: int) -> None:
        """Let a replica begin with an empty prefix cache and no features of images.

        Args:
            state: of the fleet.
            i: the replica's row, which is loaded.
            kind: a place in the specs.
        """
        contents = self._contents[kind]
        if contents is not None:
            put_empty_cache(state, i, contents)
        if self._encodes[kind]:
            put_tower(state, i, self._specs[kind].engine.vision, self._most)

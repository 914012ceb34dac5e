"""Running the steps that the scheduler plans: token ids in, a forward pass, the commit or the failure out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchpilot.engines.scheduler.commit import commit, commit_failure
from batchpilot.engines.scheduler.plan import plan
from batchpilot.engines.scheduler.state import STATIC, SchedulerState
from batchpilot.engines.scheduler.static_batching import commit_static, plan_static
from batchpilot.engines.torch.cache import BlockTables
from batchpilot.engines.torch.packing import StepTokens
from batchpilot.engines.torch.sampling import SamplingTable
from batchpilot.engines.torch.tokens import TokenStore

NextTokens = Callable[[StepTokens, NDArray[np.void], NDArray[np.int64]], NDArray[np.int64] | None]
"""`ModelRunner.next_tokens`, or what stands for it."""

_FIRST_LOG = 4096


@dataclass(slots=True)
class ExecutedStep:
    """What a step did.

    Attributes:
        duration_ms: from the planned requests to their next tokens on the host.
        requests: ids of those that emitted a token, shape (n,).
        tokens: the tokens, shape (n,).
        failed: whether it ran out of memory instead.
    """

    duration_ms: float
    requests: NDArray[np.int64]
    tokens: NDArray[np.int64]
    failed: bool


class Execution:
    """One scheduler's steps on one model.

    Args:
        row: the scheduler's arrays.
        next_tokens: runs a step on the model.
        tokens: prompts and outputs.
        sampling: how each request is sampled.
        longest: KV slots that a request may take, padding included.
        clock: seconds.
        record_steps: keep start, B, S, C and T of every step.

    Attributes:
        row: the scheduler's arrays; the step log in them grows.
        tables: which KV blocks each request holds.
        stopped: whether a request has said a stop token, shape (requests,).
    """

    def __init__(
        self,
        row: SchedulerState,
        next_tokens: NextTokens,
        tokens: TokenStore,
        sampling: SamplingTable,
        *,
        longest: int,
        clock: Callable[[], float],
        record_steps: bool = False,
    ) -> None:
        self.row = row._replace(step_log=np.zeros((_FIRST_LOG, 5))) if record_steps else row
        self._next_tokens = next_tokens
        self._tokens = tokens
        self._sampling = sampling
        self._timer = clock
        self._clock = np.asarray(row.clock)[0]
        self._records = np.asarray(row.requests)
        self._slots = np.asarray(row.slots)
        self._static = bool(self._clock["mode"] == STATIC)
        self._padding = np.zeros(len(self._records), np.int64)
        self.stopped = np.zeros(len(self._records), np.bool_)
        blocks = int(self._clock["total_blocks"])
        self.tables = BlockTables(
            len(self._records), blocks, min(-(-longest // int(self._clock["block_size"])), blocks)
        )

    def plan(self) -> int:
        """Plan a step; returns its requests, 0 when there is nothing to run."""
        return plan_static(self.row) if self._static else plan(self.row)

    def run(self) -> ExecutedStep:
        """Run the planned step and commit it, or its failure."""
        self._make_room_in_log()
        planned = self._slots["planned"][: self._clock["n_plan"]].copy()
        self.follow_blocks()

        started = self._timer()
        step = self._step_tokens(planned)
        asking = planned[step.wanted]
        place = self._records["generated"][asking]
        ids = self._next_tokens(step, self._sampling.draws[asking], place)
        duration_ms = 1000.0 * (self._timer() - started)

        if ids is None:
            commit_failure(self.row, duration_ms)
        else:
            self._tokens.append(asking, place, ids)
            self._end_stopping(self._sampling.stopping(asking, ids))
            if self._static:
                commit_static(self.row, duration_ms)
            else:
                commit(self.row, duration_ms)
        self.follow_blocks()
        return ExecutedStep(
            duration_ms, asking[:0] if ids is None else asking, asking[:0] if ids is None else ids, ids is None
        )

    def follow_blocks(self) -> None:
        """Take and free KV blocks as the scheduler counts them."""
        self.tables.follow(self._records["blocks"], int(self._clock["free_blocks"]))

    def _step_tokens(self, planned: NDArray[np.int64]) -> StepTokens:
        """The plan in token ids, blocks and places."""
        c = self._clock
        tokens = self._slots["tokens"][: len(planned)].copy()
        records = self._records[planned]
        computed, length = records["computed"], records["prompt"] + records["generated"]
        if self._static:
            if c["static_computed"] == 0:
                # Padding goes before the prompts, so that all of a batch emit their first token in the same step.
                self._padding[planned] = c["static_prompt"] - length
            in_prompt = c["static_computed"] + tokens < c["static_prompt"]
            wanted = ~in_prompt & (records["generated"] < records["output"])
        else:
            wanted = computed + tokens == length
        padding = self._padding[planned]
        owner = np.repeat(np.arange(len(planned)), tokens)
        first = computed - padding - (np.cumsum(tokens) - tokens)
        # Members of a padded batch compute before their prompt begins and after their output is done.
        place = np.clip(np.arange(len(owner)) + first[owner], 0, length[owner] - 1)
        return StepTokens(
            ids=self._tokens.read(planned[owner], place),
            tables=self.tables.table(planned),
            tokens=tokens,
            computed=computed,
            padding=padding,
            wanted=wanted,
        )

    def _end_stopping(self, requests: NDArray[np.int64]) -> None:
        """Shorten the output of requests that have just said their last, so that the commit ends them."""
        self.stopped[requests] = True
        self._records["output"][requests] = self._records["generated"][requests] + 1

    def _make_room_in_log(self) -> None:
        log = self.row.step_log
        if 0 < len(log) == self._clock["n_logged"]:
            self.row = self.row._replace(step_log=np.concatenate([log, np.zeros_like(log)]))

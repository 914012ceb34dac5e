"""Running the steps that the scheduler plans: token ids in, a forward pass, the commit or the failure out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchpilot.engines.scheduler.commit import commit, commit_failure
from batchpilot.engines.scheduler.plan import plan
from batchpilot.engines.scheduler.speculation import shorten_drafts
from batchpilot.engines.scheduler.state import STATIC, SchedulerState
from batchpilot.engines.scheduler.static_batching import commit_static, plan_static
from batchpilot.engines.torch.cache import BlockTables
from batchpilot.engines.torch.drafting.base import Drafter, Drafting, Drafts
from batchpilot.engines.torch.drafting.verification import Verified
from batchpilot.engines.torch.packing import StepTokens
from batchpilot.engines.torch.sampling import SamplingTable
from batchpilot.engines.torch.shaping import Logprobs
from batchpilot.engines.torch.shared_blocks import SharedBlocks
from batchpilot.engines.torch.tokens import TokenStore
from batchpilot.engines.torch.vision import ShownImages, VisionEncoder

NextTokens = Callable[..., NDArray[np.int64] | None]
"""`ModelRunner.next_tokens`, or what stands for it; the shaping is passed where there is one."""

_FIRST_LOG = 4096


@dataclass(slots=True)
class ExecutedStep:
    """What a step did.

    Attributes:
        duration_ms: from the planned requests to their next tokens on the host.
        requests: ids of those that emitted a token, one an entry a token, a request's together, shape (n,).
        tokens: the tokens, shape (n,).
        failed: whether it ran out of memory instead.
        logprobs: of the tokens, None where nobody asked; those of requests that did not ask are None.
    """

    duration_ms: float
    requests: NDArray[np.int64]
    tokens: NDArray[np.int64]
    failed: bool
    logprobs: list[Logprobs | None] | None = None


def _failed() -> ExecutedStep:
    nobody = np.zeros(0, np.int64)
    return ExecutedStep(0.0, nobody, nobody, failed=True)


class Execution:
    """One scheduler's steps on one model.

    Args:
        row: the scheduler's arrays.
        next_tokens: runs a step on the model.
        verified: runs a step with drafts, as `ModelRunner.verified`.
        drafter: guesses what comes next.
        tokens: prompts and outputs.
        sampling: how each request is sampled.
        longest: KV slots that a request may take, padding included.
        clock: seconds.
        record_steps: keep start, B, S, C and T of every step.
        images: of the requests; None where none may have any.
        encoder: what the model encodes them with.

    Attributes:
        row: the scheduler's arrays; the step log in them grows.
        tables: which KV blocks each request holds.
        stopped: whether a request has said a stop token, shape (requests,).
    """

    def __init__(
        self,
        row: SchedulerState,
        next_tokens: NextTokens,
        verified: Callable[..., Verified | None],
        drafter: Drafter,
        tokens: TokenStore,
        sampling: SamplingTable,
        *,
        longest: int,
        clock: Callable[[], float],
        record_steps: bool = False,
        images: ShownImages | None = None,
        encoder: VisionEncoder | None = None,
    ) -> None:
        self._images, self._encoder = images, encoder
        self.row = row._replace(step_log=np.zeros((_FIRST_LOG, 5))) if record_steps else row
        self._next_tokens, self._verified, self._drafter = next_tokens, verified, drafter
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
            len(self._records),
            blocks,
            min(-(-longest // int(self._clock["block_size"])), blocks),
            SharedBlocks(row) if self._clock["prefix_cache"] else None,
        )

    def plan(self) -> int:
        """Plan a step; returns its requests, 0 when there is nothing to run."""
        return plan_static(self.row) if self._static else plan(self.row)

    def run(self) -> ExecutedStep:
        """Run the planned step and commit it, or its failure."""
        self._make_room_in_log()
        planned = self._slots["planned"][: self._clock["n_plan"]].astype(np.int64)
        self.follow_blocks()

        told = self._encoding
        started = self._timer()
        drafts = self._draft(planned) if self._clock["plan_drafted"] else None
        step = self._step_tokens(planned, None if drafts is None else drafts.counts)
        said = self._without_drafts(planned, step) if drafts is None else self._with_drafts(planned, step, drafts)
        said.duration_ms = 1000.0 * (self._timer() - started)
        if step.shown:
            self._count_images(told, said.duration_ms)

        if said.failed:
            commit_failure(self.row, said.duration_ms)
        elif self._static:
            commit_static(self.row, said.duration_ms)
        else:
            commit(self.row, said.duration_ms)
        self.follow_blocks()
        return said

    def _without_drafts(self, planned: NDArray[np.int64], step: StepTokens) -> ExecutedStep:
        """One token for each that wants one."""
        asking = planned[step.wanted]
        place = self._records["generated"][asking]
        shaping = self._sampling.shaping(asking)
        beside = () if shaping is None else (shaping,)
        ids = self._next_tokens(step, self._sampling.draws[asking], place, *beside)
        if ids is None:
            return _failed()
        self._tokens.append(asking, place, ids)
        self._end_stopping(asking[self._sampling.stopping(asking, ids)], 1)
        return ExecutedStep(0.0, asking, ids, failed=False, logprobs=shaping.told if shaping else None)

    def _draft(self, planned: NDArray[np.int64]) -> Drafts | None:
        """Drafts of the planned requests, as far as they go; the plan is cut to them. None where nobody has one."""
        records, most = self._records[planned], self._slots["tokens"][: len(planned)] - 1
        lacking = records["prompt"] + records["generated"] - records["computed"]
        asked = np.flatnonzero((lacking == 1) & (most > 0) & (records["generated"] > 0))
        asked = asked[self._sampling.may_draft(planned[asked])]
        self._drafter.follow(planned, records["computed"], records["generated"])
        counts = np.zeros(len(planned), np.int64)
        drafts = Drafts(counts, np.zeros(0, np.int64))
        if len(asked):
            requests, known = planned[asked], records["prompt"][asked] + records["generated"][asked]
            place, draws = records["generated"][asked], self._sampling.draws[planned[asked]]
            drafts = self._drafter.draft(
                Drafting(requests, most[asked], known, place, draws, self._tokens, self.tables)
            )
            counts[asked] = drafts.counts
            owner = np.repeat(np.arange(len(asked)), drafts.counts)
            within = np.arange(len(owner)) - (np.cumsum(drafts.counts) - drafts.counts)[owner]
            # They stand where they will be if they are accepted.
            self._tokens.append(requests[owner], place[owner] + within, drafts.ids)
        shorten_drafts(self.row, counts)
        self.follow_blocks()
        return Drafts(counts, drafts.ids, drafts.probabilities) if counts.any() else None

    def _with_drafts(self, planned: NDArray[np.int64], step: StepTokens, drafts: Drafts) -> ExecutedStep:
        """One token or more for each that wants any, and in the plan how many tokens are kept."""
        asking = planned[step.wanted]
        place = self._records["generated"][asking]
        drafted = Drafts(drafts.counts[step.wanted], drafts.ids, drafts.probabilities)
        verified = self._verified(
            step,
            self._sampling.draws[asking],
            place,
            drafted,
            lambda places: self._sampling.shaping(asking[places]),
        )
        if verified is None:
            return _failed()
        counts = verified.counts
        owner = np.repeat(np.arange(len(asking)), counts)
        within = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
        stops = np.flatnonzero(self._sampling.stopping(asking[owner], verified.ids))
        counts = counts.copy()
        np.minimum.at(counts, owner[stops], within[stops] + 1)
        kept = within < counts[owner]
        requests, ids = asking[owner[kept]], verified.ids[kept]
        self._tokens.append(requests, (place[owner] + within)[kept], ids)
        ending = np.unique(owner[stops])
        self._end_stopping(asking[ending], counts[ending])
        tokens = self._slots["tokens"][: len(planned)]
        # Of a chunk all is computed; of a draft, what is said but for the last token, and the one that was known.
        drafting = np.flatnonzero(step.wanted & (drafts.counts > 0))
        tokens[drafting] = counts[np.searchsorted(np.flatnonzero(step.wanted), drafting)]
        told = [one for one, keep in zip(verified.logprobs, kept, strict=True) if keep] if verified.logprobs else None
        return ExecutedStep(0.0, requests, ids, failed=False, logprobs=told)

    def follow_blocks(self) -> None:
        """Take and free KV blocks as the scheduler counts them."""
        self.tables.follow(self._records["blocks"], int(self._clock["free_blocks"]))

    def _step_tokens(self, planned: NDArray[np.int64], drafted: NDArray[np.int64] | None) -> StepTokens:
        """The plan in token ids, blocks and places; `drafted` tokens of each stand behind its own."""
        c = self._clock
        tokens = self._slots["tokens"][: len(planned)].astype(np.int64)
        records = self._records[planned]
        computed, length = records["computed"], records["prompt"] + records["generated"]
        if drafted is not None:
            length = length + drafted
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
            drafted=drafted,
            shown=[] if self._images is None else self._images.of_step(planned, computed - padding, tokens),
        )

    @property
    def _encoding(self) -> tuple[int, int, float]:
        """Images asked for, found and the time spent on the others, so far."""
        encoder = self._encoder
        return (0, 0, 0.0) if encoder is None else (encoder.images, encoder.hits, encoder.spent_ms)

    def _count_images(self, before: tuple[int, int, float], duration_ms: float) -> None:
        """Count what a step asked of the tower; the log tells of its other time, as in the simulation."""
        images, hits, spent_ms = (now - then for now, then in zip(self._encoding, before, strict=True))
        window = self.row.window[0]
        window.images += images
        window.image_hits += hits
        self._clock["plan_encode_ms"] = min(spent_ms, duration_ms)

    def _end_stopping(self, requests: NDArray[np.int64], tokens: NDArray[np.int64] | int) -> None:
        """Shorten the output of requests that have just said their last tokens, so that the commit ends them."""
        self.stopped[requests] = True
        self._records["output"][requests] = self._records["generated"][requests] + tokens

    def _make_room_in_log(self) -> None:
        log = self.row.step_log
        if 0 < len(log) == self._clock["n_logged"]:
            self.row = self.row._replace(step_log=np.concatenate([log, np.zeros_like(log)]))

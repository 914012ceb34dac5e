"""The torch engine for a server: requests come and go one by one, the clock is the wall's, a caller loops over steps.

The scheduler is the one that simulations run; only its requests come from `submit` instead of a table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Sequence
from operator import ne
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from batchpilot.core.limits import Limits
from batchpilot.core.metrics import WindowMetrics
from batchpilot.core.names import lookup
from batchpilot.core.sampling import Sampling
from batchpilot.core.slo import SLO
from batchpilot.engines.scheduler.admission import admit, count_arrival
from batchpilot.engines.scheduler.controls import Controls
from batchpilot.engines.scheduler.lifecycle import end_request
from batchpilot.engines.scheduler.state import CANCELLED, FINISH_REASONS, REFUSED_ARRIVAL, SchedulerState, allocate
from batchpilot.engines.simulated.loading import load
from batchpilot.engines.torch.cache import BlockTables
from batchpilot.engines.torch.engine import TorchEngineConfig
from batchpilot.engines.torch.execution import Execution
from batchpilot.engines.torch.live_events import OUT_OF_MEMORY, Event, LiveStep
from batchpilot.engines.torch.live_rows import LiveRows
from batchpilot.engines.torch.prompt_hashes import LiveContents
from batchpilot.engines.torch.runner import ModelRunner
from batchpilot.engines.torch.sampling import SamplingTable
from batchpilot.engines.torch.shaping import Logprobs, Matcher
from batchpilot.engines.torch.telemetry import Telemetry
from batchpilot.engines.torch.tokens import TokenStore, token_ids
from batchpilot.engines.torch.vision import ShownImages
from batchpilot.workloads.prompt_images import PromptImage, with_image_ids
from batchpilot.workloads.table import PRIORITIES, RequestTable

Result = TypeVar("Result")

_DEFAULT_SLO = SLO()
_NO_REQUESTS = RequestTable.from_arrays([], [], [])


class LiveEngine:
    """One real server without a request table: the simulator's plan and commit on the wall clock.

    A request lives in one of `room` rows and leaves it when it ends, so an engine runs for ever in the memory that it
    starts with. One thread at a time: a server's own thread calls `submit`, `cancel` and `step` in turn.

    Args:
        config: how the model is served; its `sampling` is that of requests without their own.
        runner: the model; one engine at a time may use it.
        room: most requests at a time, waiting and running, >= 1; a further one is refused on arrival.
        telemetry: asked to read the device after steps; its readings are the windows' utilisation and memory.
        clock: seconds, the wall's.
        grammars: makes the matcher of a schema, raising a ValueError for one that is none; None where requests may have
            no schema.

    Attributes:
        config: as given.
        longest: most tokens of a request, output included.

    Raises:
        ValueError: a value is outside its bound.
    """

    def __init__(
        self,
        config: TorchEngineConfig,
        runner: ModelRunner,
        *,
        room: int = 1024,
        telemetry: Telemetry | None = None,
        clock: Callable[[], float] = time.perf_counter,
        grammars: Callable[[str], Matcher] | None = None,
    ) -> None:
        if room < 1:
            raise ValueError(f"room is {room}; it must be >= 1 request")
        self.config = config
        self._runner = runner
        self._telemetry = telemetry
        self._grammars = grammars
        self._timer = clock
        self._origin = clock()
        # One row more than there is room for, in which a request stands while it is refused.
        rows = room + 1
        scheduler = config.scheduler_config(runner)
        capacity = scheduler.capacity_tokens // scheduler.block_size * scheduler.block_size
        # The last token of an output is never computed on.
        self.longest = min(scheduler.max_model_len or capacity + 1, capacity + 1)
        most, blocks = self.longest // scheduler.block_size, capacity // scheduler.block_size
        numbers = LiveContents.room_for(rows, most, blocks) if config.prefix_cache else 0
        state = allocate(1, rows, users=rows, hashed_blocks=numbers)
        load(state, 0, scheduler, _NO_REQUESTS)
        state.clock["prefix_cache"] = config.prefix_cache
        self._controls = Controls(state, config.discipline)
        self._row = self._controls.row
        # To the kernels every row has arrived, and a free one has ended.
        self._controls.clock["n_requests"] = self._controls.clock["next_arrival"] = rows
        self._row.requests["reason"] = CANCELLED
        self._rows = LiveRows(self._row, config.tenants)
        self._contents = LiveContents(self._row, most) if config.prefix_cache else None
        self._sampling = SamplingTable(rows)
        self._tokens = TokenStore.of_rows(np.asarray(self._row.requests)["prompt"], self.longest)
        self._images = None if runner.vision is None else ShownImages()
        self._execution = Execution(
            self._row,
            self._or_note(runner.next_tokens),
            self._or_note(runner.verified),
            runner.drafter,
            self._tokens,
            self._sampling,
            longest=2 * self.longest,
            clock=clock,
            images=self._images,
            encoder=runner.vision,
        )
        self._error: str | None = None
        self._events: list[Event] = []

    def __getstate__(self) -> NoReturn:
        """Refuse to be copied or pickled: model, KV cache and clock belong to one device."""
        raise TypeError(
            "a torch engine cannot be copied or pickled: its KV cache and clock are a device's; start another one"
        )

    @property
    def state(self) -> SchedulerState:
        """The scheduler's arrays, for inspection; a request's place in them is not its id."""
        return self._row

    @property
    def tables(self) -> BlockTables:
        """Which KV blocks each row holds, for inspection."""
        return self._execution.tables

    @property
    def now_ms(self) -> float:
        """Time since the engine was made."""
        return 1000.0 * (self._timer() - self._origin)

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._rows)

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing and tell nothing."""
        return not len(self._rows) and not self._events

    def set_limits(self, limits: Limits) -> None:
        """Put limits into force from the next step on.

        Args:
            limits: what the tuner asked for.
        """
        self._controls.set_limits(limits)

    def submit(
        self,
        prompt_tokens: ArrayLike,
        max_new_tokens: int,
        *,
        ttft_target_ms: float = _DEFAULT_SLO.ttft_ms,
        tpot_target_ms: float = _DEFAULT_SLO.tpot_ms,
        user: Hashable = None,
        priority: str = "normal",
        estimated_output_tokens: float | None = None,
        sampling: Sampling | None = None,
        waited_ms: float = 0.0,
        images: Sequence[PromptImage] = (),
    ) -> int:
        """A request arrives. If it is refused, the next step's events say so.

        Args:
            prompt_tokens: token ids, shape (n,), at least one.
            max_new_tokens: most tokens to generate, >= 1.
            ttft_target_ms: its promise, > 0.
            tpot_target_ms: likewise.
            user: whose it is; fair sharing shares between users.
            priority: one of `PRIORITIES`.
            estimated_output_tokens: what a length predictor says, >= 0; None for `max_new_tokens`.
            sampling: how its tokens are chosen; drawn tokens then depend on the prompt and its seed alone. None for the
                engine's, with draws of its own.
            waited_ms: how long ago it came, >= 0.
            images: in its prompt, in order; the ids at their places mean nothing.

        Returns:
            Its id, which is not given again.

        Raises:
            ValueError: a value is outside its bound, the request is longer than `longest`, or it has images and the
                runner no tower.
            RuntimeError: no limits were set.
        """
        _ = self._controls.limits
        prompt = token_ids(prompt_tokens, self._runner.shape.vocabulary, "prompt_tokens")
        if images:
            if self._images is None:
                raise ValueError("the prompt holds images, and the model was loaded without vision")
            prompt = with_image_ids(prompt, images, self._runner.shape.vocabulary)
        estimate = float(max_new_tokens) if estimated_output_tokens is None else estimated_output_tokens
        self._check_lengths(len(prompt), max_new_tokens)
        for name, value in (("estimated_output_tokens", estimate), ("waited_ms", waited_ms)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; it must be >= 0")
        matcher = self._matcher(sampling or self.config.sampling)
        slo = SLO(ttft_target_ms, tpot_target_ms, "of the request")
        values = {
            "prompt": len(prompt),
            "output": max_new_tokens,
            "estimated_output": estimate,
            "ttft_target_ms": slo.ttft_ms,
            "tpot_target_ms": slo.tpot_ms,
            "priority": lookup(PRIORITIES, priority, "priority"),
        }
        self._catch_up()
        values["arrival_ms"] = self._controls.now_ms - waited_ms
        request, r = self._rows.enter(user, values)
        self._tokens.write_prompt(r, prompt)
        if self._images is not None:
            self._images.enter(r, images)
        if self._contents is not None:
            self._contents.enter(r, prompt)
        self._sampling.set(
            r, sampling or self.config.sampling, stream=request if sampling is None else 0, matcher=matcher
        )
        self._execution.stopped[r] = False
        if self._rows.full:
            count_arrival(self._row, r)
            end_request(self._row, r, REFUSED_ARRIVAL)
        else:
            admit(self._row, r)
        self._hear()
        return request

    def cancel(self, request: int) -> bool:
        """End a request at once as cancelled and free its KV blocks; the next step's events say so.

        Args:
            request: its id.

        Returns:
            False if there is no such request or it had ended already, which changes nothing.
        """
        if request not in self._rows:
            return False
        self._catch_up()
        self._controls.cancel(self._rows.row_of(request))
        self._execution.follow_blocks()
        self._hear()
        return True

    def cached_tokens(self, request: int) -> int:
        """Tokens of a request's prompt that were in the prefix cache when it came, or at its turn.

        Args:
            request: its id; of one that has ended, or never was, none.
        """
        r = self._rows.find(request)
        return 0 if r is None else int(self._row.requests[r].cached)

    def is_waiting(self, request: int) -> bool:
        """Whether a request waits for its turn and never had one; may be asked from any thread.

        Args:
            request: its id; one that has ended, or never was, does not wait.
        """
        r = self._rows.find(request)
        return r is not None and not self._row.requests[r].admitted

    def step(self) -> LiveStep:
        """Plan, run and commit one step, if there is anything to run.

        A step that runs out of memory or on which the model raises an error is a result: its requests are tried again,
        and the one that asked most of it fails after a few times.

        Raises:
            RuntimeError: no limits were set, or waiting requests can never run (a defect of the scheduler).
        """
        _ = self._controls.limits
        self._catch_up()
        if self._execution.plan() == 0:
            self._hear()
            return LiveStep(self._take_events(), wake_ms=self._wake_ms())
        self._error = None
        done = self._execution.run()
        if self._telemetry is not None:
            self._telemetry.after_step(self._controls.now_ms)
        self._hear(done.requests.tolist(), done.tokens.tolist(), done.logprobs)
        c = self._controls.clock
        return LiveStep(
            self._take_events(),
            batch_size=int(c["n_plan"]),
            tokens=int(c["plan_total_tokens"]),
            context_tokens=int(c["plan_context"]),
            duration_ms=done.duration_ms,
            failure=self._error or OUT_OF_MEMORY if done.failed else None,
        )

    def close_window(self) -> WindowMetrics:
        """Measurements since the last call, and the start of a new window.

        Raises:
            RuntimeError: no limits were set.
        """
        self._catch_up()
        window = self._controls.close_window()
        return window if self._telemetry is None else self._telemetry.merged(window)

    def _catch_up(self) -> None:
        """Move the scheduler's clock to the wall's."""
        self._controls.clock["now_ms"] = max(self._controls.now_ms, self.now_ms)

    def _check_lengths(self, prompt_tokens: int, max_new_tokens: int) -> None:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be >= 1")
        if prompt_tokens + max_new_tokens > self.longest:
            raise ValueError(
                f"{prompt_tokens} prompt tokens and max_new_tokens {max_new_tokens} are more than the {self.longest} "
                "tokens of the longest request"
            )

    def _or_note(self, run: Callable[..., Result | None]) -> Callable[..., Result | None]:
        """A way of the runner's to run a step, with an error of the model as a failed step."""

        def noting(*asked: Any) -> Result | None:
            try:
                return run(*asked)
            except RuntimeError as error:
                self._error = f"{type(error).__name__}: {error}"
                return None

        return noting

    def _matcher(self, sampling: Sampling) -> Matcher | None:
        if sampling.schema is None:
            return None
        if self._grammars is None:
            raise ValueError("outputs by a schema need a grammar, and this engine was given none")
        return self._grammars(sampling.schema)

    def _hear(
        self, rows: Sequence[int] = (), tokens: Sequence[int] = (), logprobs: Sequence[Logprobs | None] | None = None
    ) -> None:
        """Note what has happened: the tokens of a step with their rows, those of one together, and ends.

        Rows of requests that have ended are freed.
        """
        ended = self._rows.ended()
        reasons = {r: self._reason(r) for r in ended}
        request_in = self._rows.request_in
        told = logprobs or [None] * len(rows)
        last = [*map(ne, rows, rows[1:]), True]
        self._events += [
            Event(request_in(r), token, reasons.pop(r, None) if ends else None, one)
            for r, token, one, ends in zip(rows, tokens, told, last[: len(rows)], strict=True)
        ]
        self._events += [Event(request_in(r), None, reason) for r, reason in reasons.items()]
        for r in ended:
            if self._contents is not None:
                self._contents.leave(r)
            if self._images is not None:
                self._images.leave(r)
        self._rows.leave(ended)

    def _reason(self, r: int) -> str:
        reason = FINISH_REASONS[self._row.requests[r].reason]
        return "stop" if reason == "length" and self._execution.stopped[r] else reason

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _wake_ms(self) -> float:
        """How long until an accumulating batch is due, where nothing runs."""
        wake = float(self._controls.clock["wake_ms"])
        if wake == math.inf and len(self._rows):
            raise self._controls.stuck()
        return max(wake - self._controls.now_ms, 0.0)

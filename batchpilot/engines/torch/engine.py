"""The torch engine behind the face of the simulated one: the same plan and commit around a real forward pass."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.core.limits import Limits
from batchpilot.core.metrics import METRICS, WindowMetrics, from_record
from batchpilot.engines.admission import admit_arrivals, next_arrival_ms
from batchpilot.engines.commit import commit, commit_failure
from batchpilot.engines.controls import write_limits
from batchpilot.engines.scheduler import plan
from batchpilot.engines.simulated_engine import EngineConfig, load
from batchpilot.engines.state import STATIC, SchedulerState, allocate, row
from batchpilot.engines.static_batching import commit_static, plan_static
from batchpilot.engines.torch.cache import BlockTables
from batchpilot.engines.torch.packing import StepTokens
from batchpilot.engines.torch.runner import ModelRunner
from batchpilot.engines.torch.sampling import Sampling
from batchpilot.engines.torch.telemetry import Telemetry
from batchpilot.engines.torch.tokens import TokenStore
from batchpilot.engines.windows import open_window, summarise
from batchpilot.latency.compiled import plain
from batchpilot.latency.saturation import SaturationParameters
from batchpilot.workloads.table import RequestTable

_FIRST_LOG = 4096


@dataclass(frozen=True, slots=True)
class TorchEngineConfig:
    """How a runner's model is served.

    Attributes:
        estimate: what `step_target_ms` and `ttft_guard` believe the step latency to be; None for the runner's first
            estimate.
        kv_capacity_tokens: KV tokens to use; None for all that the runner has.
        max_model_len: longest prompt plus output; None for what the model was made for.
        mode: "continuous" or "static" (padded) batching.
        prefill: "chunked", "whole" or "selective".
        discipline: who is next where the limits do not say.
        sampling: how tokens are chosen and when a request stops.
        seed: of the drawn prompts.
    """

    estimate: SaturationParameters | None = None
    kv_capacity_tokens: int | None = None
    max_model_len: int | None = None
    mode: str = "continuous"
    prefill: str = "chunked"
    discipline: str = "fcfs"
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0

    def scheduler_config(self, runner: ModelRunner) -> EngineConfig:
        """What the scheduler must know: the engine as it would be simulated.

        Args:
            runner: the model that is served.

        Raises:
            ValueError: a value is outside its bound, or more KV tokens than the runner has.
        """
        capacity = runner.kv_capacity_tokens if self.kv_capacity_tokens is None else self.kv_capacity_tokens
        if capacity > runner.kv_capacity_tokens:
            raise ValueError(f"kv_capacity_tokens is {capacity}; the runner has {runner.kv_capacity_tokens}")
        estimate = self.estimate or runner.latency
        return EngineConfig(
            latency=estimate,
            estimate=estimate,
            kv_capacity_tokens=capacity,
            block_size=runner.cache.block_size,
            max_model_len=self.max_model_len or runner.shape.max_positions,
            mode=self.mode,
            prefill=self.prefill,
            discipline=self.discipline,
            memory=runner.memory,
        )


class TorchEngine:
    """One real server: the scheduler, a model, and a clock that advances by measured step time and skips idle time.

    A step's time runs from the planned requests to their next tokens on the host. What planning and committing take,
    0.2-0.3 ms a step on a processor, is not in it.

    Args:
        config: how the model is served.
        requests: what will arrive.
        runner: the model; one engine at a time may use it.
        prompts: token ids of the prompts; None draws them.
        record_steps: keep start, B, S, C and T of every step.
        telemetry: asked to read the device after steps, None for none.
        clock: seconds.

    Attributes:
        config: as given.
        requests: as given.
    """

    def __init__(
        self,
        config: TorchEngineConfig,
        requests: RequestTable,
        runner: ModelRunner,
        *,
        prompts: Sequence[ArrayLike] | None = None,
        record_steps: bool = False,
        telemetry: Telemetry | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.config = config
        self.requests = requests
        self._runner = runner
        self._telemetry = telemetry
        self._timer = clock
        scheduler = config.scheduler_config(runner)
        state = allocate(1, len(requests), users=requests.users)
        load(state, 0, scheduler, requests)
        self._state = state
        self._row = plain(row)(state, 0)
        if record_steps:
            self._row = self._row._replace(step_log=np.zeros((_FIRST_LOG, 5)))
        self._clock = np.asarray(state.clock)[0]
        self._records = np.asarray(self._row.requests)
        self._record = np.zeros(1, METRICS).view(np.recarray)
        self._limits: Limits | None = None
        self._tokens = TokenStore(requests, runner.shape.vocabulary, config.seed, prompts)
        self._padding = np.zeros(len(self._records), np.int64)
        # A padded batch reserves its longest prompt, recomputed output included, and its longest output.
        output = requests.output_tokens
        longest = int((requests.prompt_tokens + output).max(initial=0) + output.max(initial=0))
        blocks = int(self._clock["total_blocks"])
        self._tables = BlockTables(len(self._records), blocks, min(-(-longest // scheduler.block_size), blocks))

    @property
    def state(self) -> SchedulerState:
        """The scheduler's arrays, for inspection."""
        return self._row

    @property
    def now_ms(self) -> float:
        """Engine time."""
        return float(self._clock["now_ms"])

    @property
    def finished(self) -> bool:
        """Whether every request has ended."""
        return bool(self._clock["n_ended"] == self._clock["n_requests"])

    @property
    def tables(self) -> BlockTables:
        """Which KV blocks each request holds, for inspection."""
        return self._tables

    def prompt(self, r: int) -> NDArray[np.int64]:
        """Token ids of a request's prompt.

        Args:
            r: request id, its place in the table.
        """
        return self._tokens.prompt(r)

    def generated(self, r: int) -> NDArray[np.int64]:
        """Token ids generated so far for a request.

        Args:
            r: request id, its place in the table.
        """
        return self._tokens.generated(r, int(self._records["generated"][r]))

    def set_limits(self, limits: Limits) -> None:
        """Put limits into force from the next step on.

        Args:
            limits: what the tuner asked for.
        """
        write_limits(self._state, 0, limits, self.config.discipline)
        self._limits = limits

    def run_until(self, until_ms: float) -> bool:
        """Run until the clock reaches a time; the step that crosses it is finished.

        Args:
            until_ms: engine time, infinity to run until every request has ended.

        Returns:
            Whether every request has ended.

        Raises:
            RuntimeError: no limits were set, or waiting requests can never run (a defect of the scheduler).
        """
        self._limits_in_force()
        static = self._clock["mode"] == STATIC
        while self.now_ms < until_ms:
            admit_arrivals(self._row)
            if (plan_static(self._row) if static else plan(self._row)) > 0:
                self._run_step()
            elif not self._skip_idle_time(until_ms):
                return True
        return self.finished

    def run_window(self, until_ms: float) -> tuple[WindowMetrics, bool]:
        """Run until a time, close the window and open the next.

        Args:
            until_ms: engine time.

        Returns:
            The window's measurements, and whether every request has ended.

        Raises:
            RuntimeError: as `run_until`.
        """
        done = self.run_until(until_ms)
        return self.close_window(), done

    def close_window(self) -> WindowMetrics:
        """Measurements since the last call, and the start of a new window.

        Raises:
            RuntimeError: no limits were set.
        """
        limits = self._limits_in_force()
        summarise(self._row, self._record)
        open_window(self._row)
        return from_record(self._record[0], limits)

    def step_log(self) -> NDArray[np.float64]:
        """Every step so far, rows of (start_ms, B, S, C, T_ms), shape (steps, 5); empty unless recorded."""
        return self._row.step_log[: int(self._clock["n_logged"])].copy()

    def _limits_in_force(self) -> Limits:
        if self._limits is None:
            raise RuntimeError("set_limits must be called before the engine runs")
        return self._limits

    def _skip_idle_time(self, until_ms: float) -> bool:
        """Move the clock to where there may be something to do; False when every request has ended."""
        c = self._clock
        following = min(next_arrival_ms(self._row), float(c["wake_ms"]))
        if following == math.inf:
            if not self.finished:
                raise RuntimeError(f"the scheduler is stuck at {self.now_ms} ms with limits {self._limits}")
            if until_ms < math.inf:
                c["now_ms"] = until_ms
            return False
        c["now_ms"] = min(max(following, self.now_ms), until_ms)
        return True

    def _run_step(self) -> None:
        """Run the planned step and commit it, or its failure."""
        c = self._clock
        static = c["mode"] == STATIC
        self._make_room_in_log()
        planned = np.array(self._row.slots["planned"][: c["n_plan"]])
        self._tables.follow(self._records["blocks"], int(c["free_blocks"]))

        started = self._timer()
        step = self._step_tokens(planned, bool(static))
        asking = planned[step.wanted]
        place = self._records["generated"][asking]
        ids = self._runner.next_tokens(step, self.config.sampling, asking, place)
        duration_ms = 1000.0 * (self._timer() - started)

        if ids is None:
            commit_failure(self._row, duration_ms)
        else:
            self._tokens.append(asking, place, ids)
            self._stop_at_eos(asking, ids)
            if static:
                commit_static(self._row, duration_ms)
            else:
                commit(self._row, duration_ms)
        self._tables.follow(self._records["blocks"], int(c["free_blocks"]))
        if self._telemetry is not None:
            self._telemetry.after_step(self.now_ms)

    def _step_tokens(self, planned: NDArray[np.int64], static: bool) -> StepTokens:
        """The plan in token ids, blocks and places."""
        c = self._clock
        tokens = np.array(self._row.slots["tokens"][: len(planned)])
        records = self._records[planned]
        computed, length = records["computed"], records["prompt"] + records["generated"]
        if static:
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
            tables=self._tables.table(planned),
            tokens=tokens,
            computed=computed,
            padding=padding,
            wanted=wanted,
        )

    def _stop_at_eos(self, asking: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        """Shorten the output of every request that has just said its last, so that the commit ends it."""
        eos = self.config.sampling.eos_token_id
        if eos is None:
            return
        stopping = asking[ids == eos]
        self._records["output"][stopping] = self._records["generated"][stopping] + 1

    def _make_room_in_log(self) -> None:
        log = self._row.step_log
        if 0 < len(log) == self._clock["n_logged"]:
            self._row = self._row._replace(step_log=np.concatenate([log, np.zeros_like(log)]))

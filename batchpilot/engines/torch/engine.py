"""The torch engine behind the face of the simulated one: the same plan and commit around a real forward pass."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.core.limits import Limits
from batchpilot.core.metrics import WindowMetrics, to_record
from batchpilot.core.sampling import Sampling
from batchpilot.core.tenants import TenantTerms
from batchpilot.engines.scheduler.admission import admit_arrivals, next_arrival_ms
from batchpilot.engines.scheduler.controls import Controls
from batchpilot.engines.scheduler.state import SchedulerState, allocate
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.engines.simulated.loading import hashed_blocks, load
from batchpilot.engines.torch.cache import BlockTables
from batchpilot.engines.torch.execution import Execution
from batchpilot.engines.torch.prompt_hashes import prompt_prefixes
from batchpilot.engines.torch.runner import ModelRunner
from batchpilot.engines.torch.sampling import SamplingTable
from batchpilot.engines.torch.telemetry import Telemetry
from batchpilot.engines.torch.tokens import TokenStore
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.workloads.table import RequestTable


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
        prefix_cache: compute equal beginnings of prompts once and share their KV blocks; of continuous batching alone.
        sampling: how tokens are chosen and when a request stops.
        tenants: terms by user, as requests name theirs; the others' are the ordinary ones.
        seed: of the drawn prompts.
    """

    estimate: SaturationParameters | None = None
    kv_capacity_tokens: int | None = None
    max_model_len: int | None = None
    mode: str = "continuous"
    prefill: str = "chunked"
    discipline: str = "fcfs"
    prefix_cache: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    tenants: Mapping[Any, TenantTerms] = field(default_factory=dict)
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
            prefix_cache=self.prefix_cache,
            tenants=self.tenants,
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
        telemetry: asked to read the device after steps; its readings are the windows' utilisation and memory.
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
        if requests.images is not None:
            raise ValueError("the requests hold images; the torch engine takes them from its server's clients alone")
        self.config = config
        self.requests = requests
        self._telemetry = telemetry
        self._tokens = TokenStore.of_requests(requests, runner.shape.vocabulary, config.seed, prompts)
        scheduler = config.scheduler_config(runner)
        if config.prefix_cache:
            ids = [self._tokens.prompt(r) for r in range(len(requests))]
            requests = replace(requests, prefixes=prompt_prefixes(ids, scheduler.block_size))
        state = allocate(
            1,
            len(requests),
            users=requests.users,
            hashed_blocks=hashed_blocks(scheduler, requests),
            conversations=requests.turns is not None,
        )
        load(state, 0, scheduler, requests)
        self._controls = Controls(state, config.discipline)
        sampling = SamplingTable(len(requests))
        for r in range(len(requests)):
            sampling.set(r, config.sampling, stream=r)
        # A padded batch reserves its longest prompt, recomputed output included, and its longest output.
        output = requests.output_tokens
        self._execution = Execution(
            self._controls.row,
            runner.next_tokens,
            runner.verified,
            runner.drafter,
            self._tokens,
            sampling,
            longest=int((requests.prompt_tokens + output).max(initial=0) + output.max(initial=0)),
            clock=clock,
            record_steps=record_steps,
        )

    def __getstate__(self) -> NoReturn:
        """Refuse to be copied or pickled: model, KV cache and clock belong to one device."""
        raise TypeError(
            "a torch engine cannot be copied or pickled: its KV cache and clock are a device's; start another one"
        )

    @property
    def state(self) -> SchedulerState:
        """The scheduler's arrays, for inspection."""
        return self._execution.row

    @property
    def now_ms(self) -> float:
        """Engine time."""
        return self._controls.now_ms

    @property
    def finished(self) -> bool:
        """Whether every request has ended."""
        return self._controls.finished

    @property
    def tables(self) -> BlockTables:
        """Which KV blocks each request holds, for inspection."""
        return self._execution.tables

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
        return self._tokens.generated(r, int(self.state.requests["generated"][r]))

    def set_limits(self, limits: Limits) -> None:
        """Put limits into force from the next step on.

        Args:
            limits: what the tuner asked for.
        """
        self._controls.set_limits(limits)

    def cancel(self, request: int) -> bool:
        """End a request at once as cancelled, whatever it is doing, and free its KV blocks.

        Args:
            request: its place in the request table.

        Returns:
            False if it had ended already, which changes nothing.

        Raises:
            ValueError: there is no such request.
        """
        cancelled = self._controls.cancel(request)
        self._execution.follow_blocks()
        return cancelled

    def run_until(self, until_ms: float) -> bool:
        """Run until the clock reaches a time; the step that crosses it is finished.

        Args:
            until_ms: engine time, infinity to run until every request has ended.

        Returns:
            Whether every request has ended.

        Raises:
            RuntimeError: no limits were set, or waiting requests can never run (a defect of the scheduler).
        """
        _ = self._controls.limits
        while self.now_ms < until_ms:
            admit_arrivals(self.state)
            if self._execution.plan() > 0:
                self._execution.run()
                if self._telemetry is not None:
                    self._telemetry.after_step(self.now_ms)
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

    def run_record(self, until_ms: float) -> tuple[NDArray[Any], bool]:
        """`run_window` as a record.

        Args:
            until_ms: engine time.

        Returns:
            One record of `core.metrics.METRICS`, shape (1,), and whether every request has ended.

        Raises:
            RuntimeError: as `run_until`.
        """
        window, done = self.run_window(until_ms)
        return to_record(window), done

    def close_window(self) -> WindowMetrics:
        """Measurements since the last call, and the start of a new window.

        Raises:
            RuntimeError: no limits were set.
        """
        window = self._controls.close_window()
        return window if self._telemetry is None else self._telemetry.merged(window)

    def step_log(self, since: int = 0) -> NDArray[np.float64]:
        """Steps so far, rows of (start_ms, B, S, C, T_ms), shape (steps, 5); empty unless recorded.

        Args:
            since: leave out so many of the first.
        """
        return self.state.step_log[since : int(self._controls.clock["n_logged"])].copy()

    def _skip_idle_time(self, until_ms: float) -> bool:
        """Move the clock to where there may be something to do; False when every request has ended."""
        c = self._controls.clock
        following = min(next_arrival_ms(self.state), float(c["wake_ms"]))
        if following == math.inf:
            if not self.finished:
                raise self._controls.stuck()
            if until_ms < math.inf:
                c["now_ms"] = until_ms
            return False
        c["now_ms"] = min(max(following, self.now_ms), until_ms)
        return True

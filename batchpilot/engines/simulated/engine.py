"""The simulated engine behind a Python face: configure, load requests, set limits, run to a time, read a window."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import DISCIPLINES, Limits
from batchpilot.core.metrics import METRICS, MeasuredWindows, WindowMetrics, from_record
from batchpilot.core.names import lookup
from batchpilot.core.slo import typical_target
from batchpilot.engines.scheduler.controls import Controls
from batchpilot.engines.scheduler.state import BATCHING_MODES, OFF_TOKENS, PREFILL_MODES, SchedulerState, allocate, row
from batchpilot.engines.scheduler.windows import open_window, run_windows
from batchpilot.engines.simulated.kernel import DONE, LOG_FULL, REACHED, STUCK, advance
from batchpilot.latency.model.compiled import plain
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.workloads.table import RequestTable

UNLIMITED_KV_TOKENS = 2**40
NOISE_TABLE = 8192
"""Length of the table of noise factors, which a run goes through again and again."""

WINDOWS_AT_ONCE = 4096
"""Windows that compiled code measures before Python looks again."""

_NOISE_STREAM, _ESTIMATE_STREAM = 1, 2


class EngineMemory(Protocol):
    """The device memory that the engine accounts for, all in MB (2**20 bytes); `engines.memory.MemoryModel` is one."""

    @property
    def total_mb(self) -> float:
        """The device's memory, 0 for no limit."""

    @property
    def fixed_mb(self) -> float:
        """Weights and workspace."""

    @property
    def kv_mb_per_token(self) -> float:
        """KV cache of one token."""

    @property
    def activation_mb_per_token(self) -> float:
        """Activations of one token computed in a step."""

    @property
    def kv_capacity_tokens(self) -> int:
        """KV tokens that fit."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Everything about a simulated engine but its requests and limits.

    Attributes:
        latency: the true step latency.
        estimate: what `step_target_ms` and `ttft_guard` believe it to be; None for `latency` with every time-like
            parameter off by 10 % (log-normal, drawn from the seed), since a server never knows the truth.
        kv_capacity_tokens: KV tokens that fit, >= 1; None for the memory's, or no bound without one.
        block_size: tokens in a KV block, >= 1.
        max_model_len: longest prompt plus output, None for no bound.
        mode: "continuous" or "static" (padded) batching.
        prefill: "chunked", "whole" or "selective" (prompts from 512 tokens run alone).
        discipline: who is next where the limits do not say, one of `DISCIPLINES`.
        noise: standard deviation of the logarithm of the step-time factor, >= 0.
        drift: (start_ms, true parameters from then on), ascending.
        memory: device memory; None for no accounting and no out-of-memory failure.
        seed: of the noise and of the default estimate.

    Raises:
        ValueError: a value is outside its bound; the message names it.
    """

    latency: SaturationParameters
    estimate: SaturationParameters | None = None
    kv_capacity_tokens: int | None = None
    block_size: int = 16
    max_model_len: int | None = None
    mode: str = "continuous"
    prefill: str = "chunked"
    discipline: str = "fcfs"
    noise: float = 0.0
    drift: Sequence[tuple[float, SaturationParameters]] = ()
    memory: EngineMemory | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        lookup(BATCHING_MODES, self.mode, "batching mode")
        lookup(PREFILL_MODES, self.prefill, "prefill mode")
        lookup(DISCIPLINES, self.discipline, "discipline")
        for name in ("kv_capacity_tokens", "block_size", "max_model_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be >= 1")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"noise is {self.noise}; it must be >= 0")
        starts = [start for start, _ in self.drift]
        if starts != sorted(starts):
            raise ValueError(f"drift starts {starts} must ascend")
        if self.capacity_tokens < self.block_size:
            raise ValueError(f"kv_capacity_tokens {self.capacity_tokens} holds no block of {self.block_size} tokens")

    @property
    def capacity_tokens(self) -> int:
        """KV tokens that fit, wherever that is stated."""
        if self.kv_capacity_tokens is not None:
            return int(self.kv_capacity_tokens)
        return self.memory.kv_capacity_tokens if self.memory is not None else UNLIMITED_KV_TOKENS

    def believed_latency(self) -> SaturationParameters:
        """The estimate in use: the one given, or the truth with a 10 % error drawn from the seed."""
        if self.estimate is not None:
            return self.estimate
        return self.latency.perturbed(np.random.default_rng([self.seed, _ESTIMATE_STREAM]), 0.10)


def load(state: SchedulerState, i: int, config: EngineConfig, requests: RequestTable) -> None:
    """Put an engine and its requests into row `i` of a state, at time 0 with nothing running.

    Args:
        state: allocated state with room for the requests, the users, the drift rows and the noise table.
        i: the row.
        config: the engine.
        requests: what will arrive.

    Raises:
        ValueError: the requests, users or drift rows do not fit.
    """
    n = len(requests)
    users = requests.users
    room = (state.requests.shape[1], state.user_finish.shape[1], state.parameters.shape[1] - 2)
    needed = (n, users, len(config.drift))
    if any(need > have for need, have in zip(needed, room, strict=True)):
        raise ValueError(f"requests, users and drift rows {needed} do not fit the state's {room}")
    columns = state.requests[i, :n]
    state.requests[i] = np.zeros(1, state.requests.dtype)
    columns["first_ms"] = columns["finish_ms"] = math.nan
    columns["arrival_ms"] = requests.arrival_ms
    columns["prompt"] = requests.prompt_tokens
    columns["output"] = requests.output_tokens
    columns["estimated_output"] = requests.estimated_output_tokens
    columns["ttft_target_ms"] = requests.ttft_target_ms
    columns["tpot_target_ms"] = requests.tpot_target_ms
    columns["user"] = requests.user_codes
    columns["priority"] = requests.priority

    rng = np.random.default_rng([config.seed, _NOISE_STREAM])
    size = state.noise.shape[1]
    state.noise[i] = np.exp(config.noise * rng.standard_normal(size)) if config.noise > 0 else 1.0
    state.user_finish[i] = 0.0
    believed = config.believed_latency()
    state.parameters[i] = math.inf
    state.parameters[i, 0, 1:] = believed.as_array()
    for k, (start, parameters) in enumerate(((-math.inf, config.latency), *config.drift), 1):
        state.parameters[i, k] = (start, *parameters.as_array())

    state.clock[i] = np.zeros(1, state.clock.dtype)[0]
    clock = state.clock[i]
    clock.n_requests = n
    clock.concurrency = requests.concurrency
    clock.block_size = config.block_size
    clock.total_blocks = clock.free_blocks = config.capacity_tokens // config.block_size
    clock.max_model_len = config.max_model_len or OFF_TOKENS
    clock.mode = BATCHING_MODES[config.mode]
    clock.prefill = PREFILL_MODES[config.prefill]
    clock.discipline = DISCIPLINES[config.discipline]
    clock.wake_ms = clock.ttft_guard = math.inf
    clock.parameter_row = 1
    clock.peak_tokens_per_s = believed.peak_tokens_per_s(config.capacity_tokens)
    clock.ttft_target_ms = typical_target(requests.ttft_target_ms)
    clock.tpot_target_ms = typical_target(requests.tpot_target_ms)
    if config.memory is not None:
        clock.fixed_mb = config.memory.fixed_mb
        clock.kv_mb_per_token = config.memory.kv_mb_per_token
        clock.activation_mb_per_token = config.memory.activation_mb_per_token
        clock.total_mb = config.memory.total_mb
    open_window(plain(row)(state, i))


class SimulatedEngine:
    """One simulated server: its scheduler, its clock and its requests.

    Args:
        config: the engine.
        requests: what will arrive.
        record_steps: keep start, B, S, C and T of every step.
    """

    def __init__(self, config: EngineConfig, requests: RequestTable, *, record_steps: bool = False) -> None:
        self.config = config
        self.requests = requests
        state = allocate(
            1,
            len(requests),
            users=requests.users,
            noise=NOISE_TABLE if config.noise > 0 else 1,
            drift_rows=len(config.drift),
            step_log=4096 if record_steps else 0,
        )
        load(state, 0, config, requests)
        self._controls = Controls(state, config.discipline)
        self._row = self._controls.row
        self._full_logs: list[NDArray[np.float64]] = []

    def __getstate__(self) -> dict[str, Any]:
        """All but the view of the scheduler's arrays, which a copy makes anew of its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_row"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on from a copy exactly as the original would."""
        self.__dict__.update(state)
        self._row = self._controls.row

    def __copy__(self) -> SimulatedEngine:
        """Two engines over the same arrays would be one: a copy is always a deep one."""
        return copy.deepcopy(self)

    @property
    def state(self) -> SchedulerState:
        """The scheduler's arrays, for inspection; kernels may be called on them."""
        return self._row

    @property
    def now_ms(self) -> float:
        """Engine time."""
        return self._controls.now_ms

    @property
    def finished(self) -> bool:
        """Whether every request has ended."""
        return self._controls.finished

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
        return self._controls.cancel(request)

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
        while (code := advance(self._row, until_ms)) == LOG_FULL:
            self._empty_log()
        return self._is_done(code)

    def run_window(self, until_ms: float) -> tuple[WindowMetrics, bool]:
        """Run until a time, close the window and open the next.

        Args:
            until_ms: engine time.

        Returns:
            The window's measurements, and whether every request has ended.

        Raises:
            RuntimeError: as `run_until`.
        """
        limits, record = self._controls.limits, self._controls.record
        measured = 0
        while measured == 0 and self.now_ms < until_ms:
            # The same compiled code as for many windows: a second copy would take half a minute to compile.
            measured, code = run_windows(self._row, math.inf, until_ms, record)
            if code == LOG_FULL:
                self._empty_log()
        if measured == 0:
            return self.close_window(), self.finished
        return from_record(record[0], limits), self._is_done(code)

    def run_windows(self, window_ms: float, end_ms: float) -> MeasuredWindows:
        """Run window after window under the limits in force, until a time or until every request has ended.

        Args:
            window_ms: length of a window, > 0; the step that crosses its end still belongs to it.
            end_ms: engine time, infinity to run until every request has ended.

        Returns:
            What `run_window` would have measured in each.

        Raises:
            RuntimeError: as `run_until`.
        """
        limits = self._controls.limits
        parts, code = [], REACHED
        while self.now_ms < end_ms and not self._is_done(code):
            records = np.zeros(WINDOWS_AT_ONCE, METRICS)
            done, code = run_windows(self._row, window_ms, end_ms, records.view(np.recarray))
            parts.append(records[:done])
            if code == LOG_FULL:
                self._empty_log()
        return MeasuredWindows(limits, np.concatenate([np.zeros(0, METRICS), *parts]))

    def close_window(self) -> WindowMetrics:
        """Measurements since the last call, and the start of a new window.

        Raises:
            RuntimeError: no limits were set.
        """
        return self._controls.close_window()

    def step_log(self, since: int = 0) -> NDArray[np.float64]:
        """Steps so far, rows of (start_ms, B, S, C, T_ms), shape (steps, 5); empty unless recorded.

        Args:
            since: leave out so many of the first.
        """
        logs = [*self._full_logs, self._row.step_log[: int(self._controls.clock["n_logged"])]]
        whole = min(since // max(len(self._row.step_log), 1), len(self._full_logs))
        return np.concatenate(logs[whole:])[since - whole * len(self._row.step_log) :]

    def _empty_log(self) -> None:
        self._full_logs.append(self._row.step_log.copy())
        self._controls.clock["n_logged"] = 0

    def _is_done(self, code: int) -> bool:
        if code == STUCK:
            raise self._controls.stuck()
        return code == DONE

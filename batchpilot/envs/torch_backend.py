"""Scenarios on a real model, built once; every run gets an engine of its own. Torch is imported where it is used.

What a scenario states in terms of its device is restated for the real one: `load` is a multiple of what the runner can
serve, and targets are the same multiples of an unloaded engine's latency (`envs.similarity`). What cannot be had from a
real engine is refused (drift) or left out (`noise` and `estimate_error`: it has its own).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from batchpilot.configs.scenario import Scenario
from batchpilot.core.names import lookup
from batchpilot.engines.detection.detect import detect_device
from batchpilot.engines.loading import load_runner
from batchpilot.engines.scheduler.executor import Executor
from batchpilot.envs.scenarios import GRACE_S, WORKLOAD_STREAM, PreparedRun, capacity_per_s, keeping_promise, latency_of
from batchpilot.envs.similarity import similar_promises
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.workloads.build import build_requests
from batchpilot.workloads.table import RequestTable

if TYPE_CHECKING:
    from batchpilot.engines.torch import ModelRunner

DEFAULT_MODEL = "small-qwen3"
WARM_UP = "a straight line through the warm-up's steps"


class TorchBackend:
    """Runs scenarios on a `ModelRunner`, one after another.

    Args:
        runner: the model; nobody else uses it meanwhile.
        model_name: what results call the model.
        latency: step latency as calibrated: it scales load and targets, and the scheduler's `step_target_ms` and
            `ttft_guard` believe it; None for the runner's warm-up estimate.
        latency_source: where it comes from.
        clock: seconds.

    Attributes:
        runner: as given.
        latency: as given, or the runner's.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        model_name: str,
        latency: SaturationParameters | None = None,
        latency_source: str = "given",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.runner = runner
        self.latency = latency or runner.latency
        self._latency_source = WARM_UP if latency is None else latency_source
        self._clock = clock
        self._origin = _origin(runner, model_name)

    @property
    def origin(self) -> Mapping[str, str]:
        """Model, weights' type, device, versions, KV tokens, the latency estimate and where it comes from."""
        parameters = ", ".join(f"{name} {value:.4g}" for name, value in self.latency.to_dict().items())
        return self._origin | {"latency": f"{self._latency_source}: {parameters}"}

    def prepare(self, scenario: Scenario, seed: int) -> PreparedRun:
        """A scenario's requests, restated for the real engine; `engine` of the run is its calibrated simulation.

        A scenario's own `promise` is not restated: it is in this engine's time already. The run stops when no request
        could keep its promise any more, `GRACE_S` after the last phase at the latest.

        Args:
            scenario: its device and model only say what its targets were stated for.
            seed: equal seeds and latencies give equal requests.

        Raises:
            ValueError: the scenario changes its device on the way, or its device or model is unknown.
        """
        from batchpilot.engines.torch import TorchEngineConfig

        check_runnable(scenario)
        capacity = self.runner.kv_capacity_tokens
        stated = build_requests(
            scenario.workload,
            scenario.slo_classes(),
            np.random.default_rng([seed, WORKLOAD_STREAM]),
            lambda prompt, output: capacity_per_s(self.latency, capacity, prompt, output),
            scenario.duration_s,
        )
        requests = similar_promises(stated, latency_of(scenario).parameters, self.latency)
        requests = keeping_promise(requests, scenario)
        spec = scenario.engine
        config = TorchEngineConfig(
            estimate=self.latency,
            max_model_len=spec.max_model_len,
            mode=spec.mode,
            prefill=spec.prefill,
            prefix_cache=spec.prefix_cache,
        )
        labels = {
            "device": self._origin["device"],
            "model": self._origin["model"],
            "tensor_parallel": 1,
            "dtype": self._origin["dtype"],
        }
        return PreparedRun(
            scenario.model_copy(update={**labels, "tensor_parallel": 1}),
            seed,
            config.scheduler_config(self.runner),
            requests,
            None if scenario.duration_s is None else 1000.0 * scenario.duration_s + grace_ms(requests),
            scenario.decision_interval_ms,
            f"{self._latency_source}; {', '.join(f'{key} {value}' for key, value in self._origin.items())}",
        )

    def start(self, run: PreparedRun, *, record_steps: bool = False) -> Executor:
        """A torch engine at time 0.

        Args:
            run: what `prepare` returned.
            record_steps: keep start, B, S, C and T of every step.
        """
        from batchpilot.engines.torch import TorchEngine, TorchEngineConfig

        config = TorchEngineConfig(
            estimate=run.engine.estimate,
            max_model_len=run.engine.max_model_len,
            mode=run.engine.mode,
            prefill=run.engine.prefill,
            prefix_cache=run.engine.prefix_cache,
            seed=run.seed,
        )
        return TorchEngine(config, run.requests, self.runner, record_steps=record_steps, clock=self._clock)


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """The `backend_options` of `backend="torch"`: a runner that is there already, or what it is built from.

    Attributes:
        runner: a `ModelRunner`; then nothing below `clock` may be given.
        latency: calibrated parameters, or a file that `calibrate --out` wrote; None for the warm-up's estimate.
        clock: seconds.
        model: a preset, a folder or a name that transformers knows.
        device: torch device; None for "cuda" where there is one, else "cpu".
        dtype: "float32", "bfloat16", "float16" or "int8".
        kv_dtype: of the KV cache: "auto", "int8" or "fp8".
        threads: processor threads of torch; None leaves them as they are.
        kv_capacity_tokens: KV tokens to set aside; None for all that fit.
        memory_fraction: share of the free memory to take.
        block_size: tokens in a KV block.
        step_tokens: tokens of the largest step that memory is kept free for.
        draft_model: what drafts where `speculative_tokens` asks for it, as `model`; None for prompt lookup.
        weights_seed: of random weights.
    """

    runner: ModelRunner | None = None
    latency: SaturationParameters | str | Path | None = None
    clock: Callable[[], float] = time.perf_counter
    model: str | Path = DEFAULT_MODEL
    device: str | None = None
    dtype: str = "float32"
    kv_dtype: str = "auto"
    threads: int | None = None
    kv_capacity_tokens: int | None = None
    memory_fraction: float | None = None
    block_size: int = 16
    step_tokens: int = 2048
    draft_model: str | Path | None = None
    weights_seed: int = 0

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> TorchOptions:
        """Options from a dictionary.

        Args:
            given: option names and values.

        Raises:
            ValueError: an unknown option, or a runner beside what a runner is built from.
        """
        names = [field.name for field in fields(cls)]
        for name in given:
            lookup(dict.fromkeys(names), name, "option of the torch backend")
        building = [name for name in given if name not in ("runner", "latency", "clock")]
        if given.get("runner") is not None and building:
            raise ValueError(f"backend_options give a runner and {', '.join(building)}: a runner is built already")
        return cls(**given)

    def start(self) -> TorchBackend:
        """The backend, its model loaded and warm.

        Raises:
            ValueError: torch is missing, or the model cannot be served as asked.
            OSError: the latency file cannot be read.
        """
        latency, source = self.latency, "given"
        if isinstance(latency, str | Path):
            source = f"read from {Path(latency).name}"
            latency = SaturationParameters.from_yaml(latency)
        runner = self.runner or self._runner()
        return TorchBackend(
            runner,
            model_name=str(self.model) if self.runner is None else f"{runner.model.config.model_type} (given)",
            latency=latency,
            latency_source=source,
            clock=self.clock,
        )

    def _runner(self) -> ModelRunner:
        return load_runner(
            self.model,
            device=self.device,
            threads=self.threads,
            dtype=self.dtype,
            kv_dtype=self.kv_dtype,
            kv_capacity_tokens=self.kv_capacity_tokens,
            memory_fraction=self.memory_fraction,
            block_size=self.block_size,
            step_tokens=self.step_tokens,
            draft_model=self.draft_model,
            seed=self.weights_seed,
        )


def check_runnable(scenario: Scenario) -> None:
    """Refuse what a real engine cannot do.

    Args:
        scenario: any.

    Raises:
        ValueError: its device slows down or its model is switched on the way.
    """
    if scenario.engine.drift:
        kinds = ", ".join(dict.fromkeys(change.kind for change in scenario.engine.drift))
        raise ValueError(
            f"scenario {scenario.name!r} has drift ({kinds}), which the torch backend cannot make a real device do; "
            "take a scenario without drift, or backend 'simulated'"
        )


def grace_ms(requests: RequestTable) -> float:
    """Time after the last phase in which some request could still keep its promise, at most `GRACE_S`.

    Args:
        requests: of the run.
    """
    latest = requests.ttft_target_ms + requests.tpot_target_ms * requests.output_tokens
    return min(float(latest.max(initial=0.0)), 1000.0 * GRACE_S)


def _origin(runner: ModelRunner, model_name: str) -> dict[str, str]:
    import torch

    on_processor = runner.device.type == "cpu"
    name = detect_device(()).model if on_processor else torch.cuda.get_device_name(runner.device)
    return {
        "backend": "torch",
        "model": model_name,
        "dtype": runner.dtype,
        "kv_dtype": runner.kv_dtype,
        "device": f"{name}, {torch.get_num_threads()} threads" if on_processor else name,
        "kv_tokens": str(runner.kv_capacity_tokens),
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
    }

"""The reference server's engine on this machine three times: behind HTTP, in this process, and simulated."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from batchpilot.baselines import Setting
from batchpilot.configs.tuner import TunerConfig
from batchpilot.configs.tuner_files import load_tuner_config
from batchpilot.core.slo import SLO
from batchpilot.engines import SimulationResult
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.envs.torch_backend import TorchBackend
from batchpilot.runners.http.load.own_server import own_server
from batchpilot.runners.http.load.simulating import simulated
from batchpilot.runners.torch.calibration import TorchServer
from batchpilot.serving.load.flight import LoadResult, Progress
from batchpilot.serving.load.prompts import Prompts, sample
from batchpilot.serving.rollout.control import make_setting, tuner_by_name
from batchpilot.workloads.table import RequestTable

if TYPE_CHECKING:
    from batchpilot.engines.torch import ModelRunner
    from batchpilot.serving.server.text import Text

_SAMPLE_TOKENS = 200
_NO_PROMISE_MS = 1e9


@dataclass(frozen=True, slots=True)
class OwnTuner:
    """What sets the limits.

    Attributes:
        name: as `batchpilot serve` takes it.
        track: the fields it may move.
        config: file of its configuration, None for the defaults.
    """

    name: str
    track: str = "guarded"
    config: Path | None = None

    def setting(self, promise: SLO, engine: ModelRunner, seed: int) -> Setting:
        """What it is built for, as a server builds it.

        Args:
            promise: the tightest of the requests.
            engine: its warm-up's estimate is where beliefs begin.
            seed: of its draws.
        """
        config = TunerConfig() if self.config is None else load_tuner_config(self.config)
        return make_setting(config, slo=promise, seed=seed, track=self.track, latency=engine.latency)


class OwnEngine:
    """One model, one tuner and one promise, run in three ways.

    Args:
        server: the model and how it runs.
        backend: the model, loaded.
        run: how it is served.
        requests: what is sent.
        tuner: sets the limits.
        seed: of draws, prompts and tuners.

    Attributes:
        promise: what the tuner is built for, the tightest of the requests' targets.
        bytes_per_token: of prompts under the model's tokenizer.

    Raises:
        ValueError: the scenario needs padded batches, which the server does not make, there is no such tuner, or the
            extra `serve` is missing.
        OSError: the tuner's configuration cannot be read.
    """

    def __init__(
        self,
        server: TorchServer,
        backend: TorchBackend,
        run: PreparedRun,
        requests: RequestTable,
        tuner: OwnTuner,
        seed: int,
    ) -> None:
        if run.engine.mode != "continuous":
            raise ValueError(f"scenario {run.scenario.name!r} asks for {run.engine.mode} batches; the server's are not")
        # Its package is imported now: nobody should hear of a missing one after the first column has run.
        from batchpilot.serving.server.text import load_text

        self._server, self._run, self._requests, self._tuner, self._seed = server, run, requests, tuner, seed
        self._runner: ModelRunner | None = backend.runner
        self._kv_tokens, self._device = backend.runner.kv_capacity_tokens, backend.runner.device
        ttft_ms, tpot_ms = float(requests.ttft_target_ms.min()), float(requests.tpot_target_ms.min())
        self.promise = SLO(min(ttft_ms, _NO_PROMISE_MS), min(tpot_ms, _NO_PROMISE_MS))
        self._setting = tuner.setting(self.promise, backend.runner, seed)
        tuner_by_name(tuner.name, self._setting)
        self._text: Text = load_text(server.model)
        text = sample(_SAMPLE_TOKENS, seed)
        self.bytes_per_token = len(text.encode()) / len(self._text.encode(text))

    @contextmanager
    def over_http(self) -> Iterator[str]:
        """The address of a server in a process of its own; this process lets go of the model first.

        Raises:
            ValueError: it does not get ready.
        """
        self._release()
        options = {
            "--model": self._server.model,
            "--tuner": self._tuner.name,
            "--track": self._tuner.track,
            "--config": self._tuner.config,
            "--torch-device": self._device,
            "--dtype": self._server.dtype,
            "--threads": self._server.threads,
            "--kv-tokens": self._kv_tokens,
            "--max-model-len": self._run.engine.max_model_len,
            "--window-ms": self._run.window_ms,
            "--ttft-ms": self.promise.ttft_ms,
            "--tpot-ms": self.promise.tpot_ms,
            "--seed": self._seed,
        }
        given = [part for name, value in options.items() if value is not None for part in (name, str(value))]
        with own_server(given) as address:
            yield address

    async def in_process(
        self, grace_s: float, on_progress: Callable[[Progress], None], stop: asyncio.Event
    ) -> LoadResult:
        """The server without HTTP, in real time.

        Args:
            grace_s: how long answers are waited for after the last request was due.
            on_progress: hears of every request that was sent or has ended.
            stop: set to stop early.
        """
        from batchpilot.engines.torch import TorchEngineConfig
        from batchpilot.serving.load.in_process import run_in_process
        from batchpilot.serving.server.building import build_service
        from batchpilot.serving.server.config import ServerConfig

        if self._runner is None:
            raise RuntimeError("the model was let go of; run in_process before over_http")
        service = build_service(
            self._runner,
            self._text,
            ServerConfig(self._server.model, self.promise, seed=self._seed),
            tuner=self._tuner.name,
            setting=self._setting,
            engine_config=TorchEngineConfig(max_model_len=self._run.engine.max_model_len, seed=self._seed),
            window_ms=self._run.window_ms,
        )
        requests = self._requests
        prompts = Prompts(requests.prompt_tokens, self.bytes_per_token, self._seed, requests.turns, requests.prefixes)
        return await run_in_process(
            self._requests, service, prompts, grace_s=grace_s, on_progress=on_progress, stop=stop
        )

    def simulated(self, grace_s: float) -> SimulationResult:
        """The server's simulation: steps as calibrated, the scheduler believing what the server's warm-up measured.

        Args:
            grace_s: how long answers are waited for after the last request was due.
        """
        engine = replace(self._run.engine, estimate=self._setting.latency)
        tuner = tuner_by_name(self._tuner.name, self._setting)
        return simulated(engine, self._requests, tuner, window_ms=self._run.window_ms, grace_s=grace_s)

    def _release(self) -> None:
        """Room for the model on the same device."""
        self._runner = None
        gc.collect()
        if self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

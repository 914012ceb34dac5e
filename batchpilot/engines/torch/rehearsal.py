"""A live engine's whole life in small, so that its kernels are compiled before anybody waits for it. Needs torch."""

from __future__ import annotations

from batchpilot.core.limits import Limits
from batchpilot.engines.torch.engine import TorchEngineConfig
from batchpilot.engines.torch.live import LiveEngine
from batchpilot.engines.torch.runner import ModelRunner


def rehearse_engine(config: TorchEngineConfig, runner: ModelRunner) -> None:
    """Serve a request with drafts, refuse one and cancel one on an engine that is thrown away.

    Compiling holds the interpreter lock for seconds; a server that met it under load would stand still for as long.

    Args:
        config: how the model will be served.
        runner: the model; no other engine may be using it.

    Raises:
        RuntimeError: the model cannot run even one request.
    """
    engine = LiveEngine(config, runner, room=2)
    drafted = 0 if config.mode == "static" else 1
    limits = Limits(2, step_target_ms=1000.0, ttft_guard=1.0, discipline="spf", speculative_tokens=drafted)
    engine.set_limits(limits)
    failure: str | None = None
    for tokens in (min(3, engine.longest - 1), engine.longest - 1, 1):
        cancelled = engine.submit([0], tokens)
    while not engine.idle:
        step = engine.step()
        failure = failure or step.failure
        engine.cancel(cancelled - 1)
    engine.close_window()
    if failure is not None:
        raise RuntimeError(f"the model cannot run a request of one token: {failure}")

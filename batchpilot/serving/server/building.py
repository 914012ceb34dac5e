"""From a model's name to a service: the model loaded, the engine around it, a session with its tuner. Needs torch."""

from __future__ import annotations

import time
from collections.abc import Callable

from batchpilot.baselines import Setting
from batchpilot.core import WindowMetrics
from batchpilot.engines.torch import LiveEngine, ModelRunner, Telemetry, TorchEngineConfig
from batchpilot.engines.torch.rehearsal import rehearse_engine
from batchpilot.serving.pictures.decoding import require_pillow
from batchpilot.serving.rehearsal import rehearse
from batchpilot.serving.rollout.control import TunerControl, make_setting, tuner_by_name
from batchpilot.serving.server.config import ServerConfig
from batchpilot.serving.server.engine_loop import EngineLoop, LiveMeasures
from batchpilot.serving.server.history import History
from batchpilot.serving.server.metrics import ServerMetrics
from batchpilot.serving.server.service import Service
from batchpilot.serving.server.structured import Grammars
from batchpilot.serving.server.text import Text
from batchpilot.serving.session.session import TunerSession
from batchpilot.tuners import DEFAULT_TUNER

MOST_TO_COMPILE = "model-based"
"""An operator may switch to any tuner while requests run; none has more to compile."""


def build_service(
    runner: ModelRunner,
    text: Text,
    config: ServerConfig,
    *,
    tuner: str = DEFAULT_TUNER,
    setting: Setting | None = None,
    engine_config: TorchEngineConfig | None = None,
    window_ms: float = 1000.0,
    room: int = 1024,
    telemetry: Telemetry | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Service:
    """Everything behind the routes, nothing of it started, and nothing of it left to compile.

    The first time on a machine that takes some 20 seconds, later less than one.

    Args:
        runner: the model.
        text: its tokenizer.
        config: how the server answers.
        tuner: sets the limits, as `tuner_by_name` takes it.
        setting: what tuners are built for; None takes the server's promise and what the runner's warm-up measured.
        engine_config: how the model is served.
        window_ms: length of a measurement window.
        room: most requests at a time; a further one is refused.
        telemetry: reads the device.
        clock: seconds.

    Raises:
        ValueError: a value is outside its bound, or the tuner cannot be built.
        MissingExtraError: images are to be taken, and what decodes them is not installed.
    """
    if config.vision != (runner.vision is not None):
        raise ValueError(f"config.vision is {config.vision}; it must say whether the runner was made with vision")
    if config.vision:
        require_pillow()
    engine_config = engine_config or TorchEngineConfig()
    rehearse_engine(engine_config, runner)
    grammars = Grammars(lambda: text.guidance(runner.shape.vocabulary), runner.shape.vocabulary)
    engine = LiveEngine(engine_config, runner, room=room, telemetry=telemetry, clock=clock, grammars=grammars)
    setting = setting or make_setting(slo=config.slo, latency=runner.latency, memory=runner.memory)
    control = TunerControl(tuner, setting)
    for name in (tuner, MOST_TO_COMPILE):
        rehearse(tuner_by_name(name, setting))
    metrics, history = ServerMetrics(), History()

    def note(window: WindowMetrics) -> None:
        history.add(window)
        metrics.window(window)

    session = TunerSession(
        control.staged,
        window_ms=window_ms,
        clock=lambda: engine.now_ms / 1000.0,
        engine=LiveMeasures(engine),
        background=True,
        on_window=note,
    )
    control.attach(session)
    loop = EngineLoop(engine, session, metrics, clock)
    metrics.watch(session, control, lambda: loop.gauges, lambda: None if telemetry is None else telemetry.latest)
    return Service(config, loop, session, control, text, metrics, history, clock)

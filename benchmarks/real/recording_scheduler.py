"""The adapter's scheduler for measurements: its steps go to a file, and its tuner can be changed without a new start.

A start of vLLM takes minutes. `BATCHPILOT_MEASURED` names a JSON file: `settings` as of `--additional-config`, and
`steps`, the file of steps. Whenever it has changed and nothing runs, the adapter begins anew with what it says.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, TextIO

from batchpilot.serving.adapters.step_control import StepControl
from batchpilot.serving.adapters.vllm_scheduler import TunedScheduler
from batchpilot.serving.adapters.vllm_settings import VLLMSettings

COLUMNS = "ended_s,batch_size,tokens,latency_ms,context_tokens"


class RecordingScheduler(TunedScheduler):  # type: ignore[misc] # vLLM is not installed where types are checked
    """Writes when each step ended, its requests, tokens, time and the context tokens that it read."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._told = Path(os.environ["BATCHPILOT_MEASURED"])
        self._changed_ns = 0
        self._steps: TextIO | None = None

    def add_request(self, request: Any) -> None:
        """Begin anew before the first request that comes after a change.

        Args:
            request: as vLLM's scheduler.
        """
        if not self.requests and self._told.stat().st_mtime_ns != self._changed_ns:
            self._changed_ns = self._told.stat().st_mtime_ns
            self._begin_anew(**json.loads(self._told.read_text()))
        super().add_request(request)

    def _begin_anew(self, settings: dict[str, Any], steps: str) -> None:
        self.control.session.close()
        chosen = VLLMSettings.from_additional_config({"batchpilot": settings})
        session = chosen.session(*self._own_limits, self.kv_cache_config.num_blocks * self.block_size)
        self.control = StepControl(session, *self._own_limits, known=chosen.known_estimate)
        self._promise = chosen.slo
        if self._steps is not None:
            self._steps.close()
        Path(steps).parent.mkdir(parents=True, exist_ok=True)
        self._steps = Path(steps).open("a", buffering=1)  # noqa: SIM115 - open until the next change
        self._steps.write(COLUMNS + "\n")
        hear_step = self.control.hear_step

        def recorded(**step: Any) -> None:
            if step["tokens"] and self._steps is not None:
                figures = (step["batch_size"], step["tokens"], f"{step['duration_ms']:.3f}", step["context_tokens"])
                self._steps.write(f"{time.time():.3f}," + ",".join(map(str, figures)) + "\n")
            hear_step(**step)

        self.control.hear_step = recorded  # type: ignore[method-assign]

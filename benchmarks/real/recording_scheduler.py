"""The adapter's scheduler for measurements: its tuner and its recording can be changed without a new start.

A start of vLLM takes minutes. `BATCHPILOT_MEASURED` names a JSON file of settings as of `--additional-config`, `record`
among them. Whenever it has changed and nothing runs, the adapter begins anew with what it says.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from batchpilot.serving.adapters.step_control import StepControl
from batchpilot.serving.adapters.vllm_scheduler import TunedScheduler
from batchpilot.serving.adapters.vllm_settings import VLLMSettings


class RecordingScheduler(TunedScheduler):  # type: ignore[misc] # vLLM is not installed where types are checked
    """Begins anew with what a file says."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._told = Path(os.environ["BATCHPILOT_MEASURED"])
        self._changed_ns = 0

    def add_request(self, request: Any) -> None:
        """Begin anew before the first request that comes after a change.

        Args:
            request: as vLLM's scheduler.
        """
        if not self.requests and self._told.stat().st_mtime_ns != self._changed_ns:
            self._changed_ns = self._told.stat().st_mtime_ns
            self._begin_anew(json.loads(self._told.read_text()))
        super().add_request(request)

    def _begin_anew(self, settings: dict[str, Any]) -> None:
        self.control.close()
        chosen = VLLMSettings.from_additional_config({"batchpilot": settings})
        session = chosen.session(*self._own_limits, self.kv_cache_config.num_blocks * self.block_size)
        self.control = StepControl(session, *self._own_limits, known=chosen.known_estimate, recorder=chosen.recorder())
        self._promise = chosen.slo

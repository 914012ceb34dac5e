"""Vidur's processed traces: `arrived_at` in seconds, `num_prefill_tokens`, `num_decode_tokens`.

Source: github.com/microsoft/vidur, data/processed_traces (Agrawal et al., MLSys 2024).
"""

from __future__ import annotations

from batchpilot.workloads.readers.delimited import DelimitedFormat

VIDUR = DelimitedFormat("arrived_at", "num_prefill_tokens", "num_decode_tokens", time_unit="s")
"""The columns of Vidur that say when and how much."""

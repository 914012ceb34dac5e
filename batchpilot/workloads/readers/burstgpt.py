"""BurstGPT: `Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type`, times in seconds.

A row with 0 response tokens is a request that failed at the provider: it is left out and counted in `skipped_rows`, and
is no error.

Source: github.com/HPMLL/BurstGPT, CC-BY 4.0 (Wang et al., KDD 2025).
"""

from __future__ import annotations

from batchpilot.workloads.readers.delimited import DelimitedFormat

BURSTGPT = DelimitedFormat("Timestamp", "Request tokens", "Response tokens", time_unit="s", failed_without_output=True)
"""The columns of BurstGPT that say when and how much."""

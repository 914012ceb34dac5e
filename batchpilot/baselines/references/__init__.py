"""References: the best fixed setting in hindsight, of a suite, and a schedule that knows the future."""

from batchpilot.baselines.references.static_best import (
    best_static,
    best_statics,
    goodput_of,
    tightest_tpot_ms,
    track_grid,
)

__all__ = ["best_static", "best_statics", "goodput_of", "tightest_tpot_ms", "track_grid"]

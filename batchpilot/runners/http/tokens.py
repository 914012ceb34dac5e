"""The token for changes of the tuner, as `batchpilot serve` and `batchpilot gateway` are told it."""

from __future__ import annotations

import os
from pathlib import Path

TOKEN_VARIABLE = "BATCHPILOT_TOKEN"


def chosen_token(file: Path | None) -> str | None:
    """The token, None where there is none.

    Args:
        file: that holds it; None for the environment's.
    """
    return file.read_text("utf-8").strip() if file else os.environ.get(TOKEN_VARIABLE)

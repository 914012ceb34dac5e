import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def azure_trace():
    """Path of a published Azure trace by its short name; skips where the shared folder is absent."""
    beside = Path(__file__).resolve().parents[2].parent / "shared"
    folder = Path(os.environ.get("BATCHPILOT_SHARED", beside)) / "traces"

    def path(name):
        file = folder / f"AzureLLMInferenceTrace_{name}.csv"
        if not file.is_file():
            pytest.skip(f"published trace not found at {file}; set BATCHPILOT_SHARED to the folder that holds traces/")
        return file

    return path

"""A shell that asks what a word may become, as bash does."""

import os
import subprocess
import sys

import pytest

from batchpilot.configs.catalogue import devices
from batchpilot.tuners import TUNERS


def completed(*words):
    asked = {"_BATCHPILOT_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    command = (
        "import sys; sys.argv = ['batchpilot']; from batchpilot.runners.main import app; app(prog_name='batchpilot')"
    )
    answer = subprocess.run([sys.executable, "-c", command], env=os.environ | asked, capture_output=True, text=True)
    return answer.stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("batchpilot", "simulate", "quick-b"), ["quick-burst"]),
        (("batchpilot", "plan", "--device", "H100"), [one.name for one in devices() if one.name.startswith("H100")]),
        (
            ("batchpilot", "leaderboard", "--tuners", "aimd,opt"),
            [f"aimd,{name}" for name in TUNERS if name[:3] == "opt"],
        ),
        (("batchpilot", "leaderboard", "--suite", "held"), ["held-out"]),
    ],
)
def test_names_are_completed(words, found):
    assert found
    assert completed(*words) == found

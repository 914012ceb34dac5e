"""Property tests draw the same examples everywhere; `HYPOTHESIS_PROFILE=search` looks for new ones.

A shell ignores Ctrl-C in what it runs in the background, and whoever is started there inherits that: tests that press
Ctrl-C start commands as a terminal would.
"""

import os
import signal

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=500, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def folder_of_stray_logs(tmp_path_factory):
    """Where stable-baselines3 logs what an agent of a test learns, instead of a new folder in /tmp for each."""
    os.environ["SB3_LOGDIR"] = str(tmp_path_factory.mktemp("sb3"))

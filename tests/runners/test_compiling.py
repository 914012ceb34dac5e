"""A command that compiles says so once, and only when it takes long."""

import os
import subprocess
import sys
import time

import pytest
from numba import njit

from batchpilot.runners.compiling import TOLD, CompilingListener, tell_of_compiling


def compiling(listener, seconds, *, inner=0):
    """As Numba tells of a function, and of those that it calls."""
    listener.on_start(None)
    for _ in range(inner):
        listener.on_start(None)
        listener.on_end(None)
    time.sleep(seconds)
    listener.on_end(None)


def test_it_is_told_once_and_not_of_what_is_quick():
    told = []
    listener = CompilingListener(told.append, after_s=0.2)
    compiling(listener, 0.0, inner=2)
    time.sleep(0.4)
    assert told == []
    compiling(listener, 0.5, inner=2)
    compiling(listener, 0.5)
    assert told == [TOLD]


def test_numba_tells_the_listener_what_it_compiles(monkeypatch):
    heard = []
    monkeypatch.setattr(CompilingListener, "on_start", lambda self, event: heard.append("start"))
    monkeypatch.setattr(CompilingListener, "on_end", lambda self, event: heard.append("end"))
    tell_of_compiling(lambda text: None)
    njit(lambda x: x + 1)(1)
    if os.environ.get("NUMBA_DISABLE_JIT") == "1":
        pytest.skip("nothing is compiled")
    assert heard == ["start", "end"]


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "batchpilot", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("batchpilot ")

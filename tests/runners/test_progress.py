"""How far a command is, where there is no terminal."""

import io
import os
import signal
import subprocess
import sys
import time

from rich.console import Console

from batchpilot.runners.progress import EVERY_S, ToldProgress


def test_a_pipe_gets_a_line_every_few_seconds_and_not_one_a_step():
    now_s, said = 0.0, io.StringIO()
    console = Console(file=said, width=80)
    with ToldProgress(console=console, clock=lambda: now_s) as progress:
        bar = progress.add_task("running", total=1000)
        for step in range(1000):
            now_s = 0.1 * step
            progress.update(bar, advance=1, description=f"quick-chat seed {step}")
    lines = said.getvalue().splitlines()
    assert len(lines) == int(0.1 * 999 / EVERY_S)
    assert lines[0] == "101 of 1,000: quick-chat seed 100"


def test_a_quick_command_says_nothing():
    said = io.StringIO()
    with ToldProgress(console=Console(file=said)) as progress:
        progress.update(progress.add_task("running", total=1), advance=1)
    assert said.getvalue() == ""


def test_a_terminal_gets_a_bar():
    said = io.StringIO()
    with ToldProgress(keeps=True, console=Console(file=said, force_terminal=True, width=80)) as progress:
        progress.update(progress.add_task("running", total=2), advance=1)
    assert "1/2" in said.getvalue()


def test_an_interrupted_command_says_that_nothing_was_kept():
    command = "import sys; sys.argv = ['batchpilot', 'simulate']; import batchpilot.runners.simulate_command as c\n"
    command += "def prepare(*_): print('begun', flush=True); __import__('time').sleep(60)\n"
    command += "c.prepare = prepare; from batchpilot.runners.main import app; app()"
    process = subprocess.Popen(
        [sys.executable, "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told.strip()) == (130, "stopped; nothing was kept")

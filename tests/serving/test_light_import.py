"""A server that imports batchpilot pays for nothing it does not use."""

import subprocess
import sys

HEAVY = ("torch", "gymnasium", "numba", "optuna", "scipy", "matplotlib", "pandas", "stable_baselines3")


def loaded_by(statement):
    code = f"import sys; {statement}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return finished.stdout.split()


def test_serving_loads_no_heavy_library():
    assert loaded_by("import batchpilot.serving") == []


def test_a_tuner_made_in_a_server_loads_none_either():
    statement = "from batchpilot.serving import make_tuner, WindowMetrics, Limits; t = make_tuner('dynamic');"
    statement += " t.tell(WindowMetrics(limits=t.ask())); t.status()"
    assert loaded_by(statement) == []

"""What a command does not need it does not load: charts and statistics load longer than most commands run."""

import subprocess
import sys

import pytest

HEAVY = ("matplotlib", "scipy.stats", "scipy.special", "scipy.optimize", "torch", "optuna", "pandas")


@pytest.mark.parametrize("module", ["batchpilot", "batchpilot.runners.main"])
def test_nothing_heavy_is_loaded_before_it_is_needed(module):
    told = f"import sys, {module}; print(*sorted(name for name in {HEAVY} if name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_the_test_would_see_it():
    told = f"import sys, scipy.stats; print(*sorted(name for name in {HEAVY} if name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.split()
    assert "scipy.stats" in loaded

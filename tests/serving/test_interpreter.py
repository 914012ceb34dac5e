"""What a serving process does to its interpreter, in a process of its own: it cannot be undone."""

import subprocess
import sys

LOOKED_AT = """
import gc
import numpy
from batchpilot.serving.interpreter import keep_what_is_loaded
before = len(gc.get_objects())
keep_what_is_loaded()
print(before, len(gc.get_objects()), gc.isenabled())
"""


def test_the_collector_no_longer_looks_at_what_was_loaded_and_goes_on_collecting():
    said = subprocess.run([sys.executable, "-c", LOOKED_AT], capture_output=True, text=True, check=True).stdout.split()
    before, left = int(said[0]), int(said[1])
    assert before > 10_000
    assert left < 0.01 * before
    assert said[2] == "True"

"""The extra is optional: nothing else imports it, and without it the message says what to install."""

import subprocess
import sys


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_package_does_not_import_torch():
    done = run("import batchpilot, batchpilot.engines, sys; print('torch' in sys.modules)")
    assert done.stdout == "False\n"


def test_without_the_extra_the_message_names_it():
    done = run("import sys; sys.modules['torch'] = None; import batchpilot.engines.torch")
    assert "pip install 'batchpilot[torch]'" in done.stderr.splitlines()[-1]

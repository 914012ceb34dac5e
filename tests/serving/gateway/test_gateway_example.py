"""The example with the real server, the real gateway and the real client, as it stands in `examples/`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

for needed in ("torch", "fastapi", "httptools", "openai"):
    pytest.importorskip(needed)

EXAMPLE = Path(__file__).parents[3] / "examples" / "gateway_before_server.py"


def test_a_client_streams_is_refused_and_leaves_through_the_gateway():
    ran = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=170)
    assert ran.returncode == 0, ran.stderr
    streamed, refused, left = ran.stdout.splitlines()[-3:]
    assert int(re.search(r"streamed in (\d+) pieces", streamed).group(1)) >= 8
    assert re.match(r"refused with 503: .*prompt tokens are queued", refused)
    assert "nothing runs at the batchpilot server" in left
    assert "'cancelled': 1" in left

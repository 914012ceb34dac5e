"""No example, and no line of the docs, opens a server to the network, and none begins with a tuner that loses."""

import inspect
import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from batchpilot.runners.http.gateway.command import gateway
from batchpilot.runners.http.serve.command import serve
from batchpilot.runners.selection import chosen_tuner, find_tuner_config
from batchpilot.serving.server.building import build_service
from batchpilot.tuners import DEFAULT_TUNER

ROOT = Path(__file__).parents[2]
SHOWN = [
    *ROOT.glob("examples/*.py"),
    *ROOT.glob("docs/*.md"),
    ROOT / "README.md",
    *ROOT.glob("batchpilot/serving/**/*.py"),
]
OPEN_UNLESS_TOLD = re.compile(r"vllm serve MODEL|\bLitServer\(.*\.run\(|make_server\(\)\.run\(")
"""Servers of others that listen on every address where none is given."""


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_what_is_shown_listens_on_loopback(path):
    for line in path.read_text().splitlines():
        assert "0.0.0.0" not in line
        if OPEN_UNLESS_TOLD.search(line):
            assert "127.0.0.1" in line


def test_what_serves_starts_with_one_default():
    assert chosen_tuner(None, None, find_tuner_config(None), DEFAULT_TUNER) == DEFAULT_TUNER
    assert inspect.signature(build_service).parameters["tuner"].default == DEFAULT_TUNER


@pytest.mark.parametrize("command", [serve, gateway])
def test_no_command_that_serves_has_a_default_of_its_own(command):
    assert inspect.signature(command).parameters["tuner"].default is None

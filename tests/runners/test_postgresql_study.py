"""A study on a real PostgreSQL: two commands share it, and a third goes on with it."""

import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("optuna")
pytest.importorskip("psycopg", reason="the driver psycopg is not installed")

from batchpilot.runners.tuning.command import tune


def program(name: str) -> str:
    """A program of PostgreSQL's server, which Debian keeps off the path."""
    found = shutil.which(name) or next(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), None)
    if found is None:
        pytest.skip(f"PostgreSQL's {name} is not installed")
    return found


@pytest.fixture
def url():
    """A server of its own, started and stopped; it refuses to run as root, so root lends it a user."""
    initdb, control = program("initdb"), program("pg_ctl")
    user = None
    if os.geteuid() == 0:
        user = next((one.pw_name for one in pwd.getpwall() if one.pw_name == "postgres"), None)
        if user is None:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = Path(tempfile.mkdtemp(prefix="study-"))
    data = home / "data"
    if user is not None:
        shutil.chown(home, user)

    def call(*words: str) -> None:
        subprocess.run(words, user=user, cwd=home, check=True, capture_output=True, timeout=120)

    try:
        call(initdb, "-D", str(data), "-U", "me", "--auth=trust")
        listening = f"-p {port} -c listen_addresses=127.0.0.1 -k {home}"
        call(control, "-D", str(data), "-w", "-l", str(home / "log"), "-o", listening, "start")
        try:
            yield f"postgresql+psycopg://me@127.0.0.1:{port}/postgres"
        finally:
            call(control, "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home)


def test_a_study_on_postgresql_is_shared_and_gone_on_with(url, tiny_file, tmp_path):
    app = typer.Typer()
    app.command()(tune)

    def run(out, trials, *more):
        words = ["--scenario", tiny_file, "--seeds", 1, "--track", "batch", "--no-grid", "--check-seeds", 0]
        words += ["--sampler", "random", "--storage", url, "--trials", trials, "--out", tmp_path / out, *more]
        told = CliRunner().invoke(app, [str(word) for word in words])
        assert told.exit_code == 0, told.output
        return json.loads((tmp_path / out / "results.json").read_text())["trials"]

    first = run("here", 3, "--jobs", 2)
    second = run("there", 5, "--resume")
    assert 3 <= len(first) <= 4  # two processes may both see room for the last
    assert len(second) == 5
    assert second[: len(first)] == first
    assert not (tmp_path / "here/study.journal").exists()

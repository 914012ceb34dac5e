"""The gateway writes the steps it saw, on request, and `calibrate` reads them."""

import json
from contextlib import ExitStack

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from gateway_scripts import OK, before, post, saying  # noqa: E402
from gateway_servers import example, serving, wait_until  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from batchpilot import Limits  # noqa: E402
from batchpilot.baselines import StaticTuner  # noqa: E402
from batchpilot.latency.fitting.measurement_files import read_measurements  # noqa: E402
from batchpilot.runners.main import app  # noqa: E402
from batchpilot.serving.gateway import Gateway, GatewaySettings  # noqa: E402
from batchpilot.serving.session.session import TunerSession  # noqa: E402

STEPS = example()
TOKEN = "a token of some length"
FINE = OK + b"Content-Length: 2\r\n\r\n{}"


def ask(gateway, **options):
    return httpx.post(f"{gateway}/gateway/record", trust_env=False, **options)


def test_steps_that_passed_are_recorded_and_calibrate_reads_them(tmp_path):
    path = tmp_path / "steps.csv"
    session = TunerSession(StaticTuner(Limits(64)), window_ms=50.0)
    with ExitStack() as stack:
        upstream = stack.enter_context(serving(STEPS.App(STEPS.StepEngine(STEPS.slower(0.2)))))
        settings = GatewaySettings(upstream, poll_s=0, record=path)
        gateway = stack.enter_context(serving(Gateway(session, settings)))
        for length in (40, 400, 4000):
            body = {"model": "m", "prompt": "x" * length, "max_tokens": 12, "stream": True}
            assert post(gateway, json=body).status_code == 200
        wait_until(lambda: not httpx.get(f"{gateway}/gateway/status", trust_env=False).json()["running"])
    steps = read_measurements(path).observations
    assert len(steps) >= 30
    assert set(steps.batch_size) == {1}
    assert max(steps.tokens) >= 1000, "the prompt of 4000 bytes counts in the step of its first token"
    said = CliRunner().invoke(app, ["calibrate", str(path), "--fix", "tau_c=0", "--json"])
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["observations"] == len(steps)


def test_a_recording_begins_and_ends_when_it_is_asked_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script, heard = saying(FINE)
    with before(script) as gateway:
        state = httpx.get(f"{gateway}/gateway/record", trust_env=False).json()
        assert state["recording"] is False
        assert not list(tmp_path.iterdir()), "nothing is written that nobody asked for"
        assert ask(gateway, json={"recording": True}).json()["recording"] is True
        assert [file.name for file in tmp_path.iterdir()] == ["batchpilot-steps.csv"]
        assert ask(gateway, json={"recording": True}).status_code == 200
        assert ask(gateway, json={"recording": False}).json()["recording"] is False
    assert not heard, "the upstream hears nothing of it"


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"json": {"recording": "yes"}}, 400, "invalid_request"),
        ({"json": {"recording": True, "path": "/etc/passwd"}}, 400, "invalid_request"),
        ({"json": [True]}, 400, "invalid_request"),
        ({"json": {}}, 400, "invalid_request"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "invalid_json"),
        ({"content": b"[" * 4000, "headers": {"content-type": "application/json"}}, 400, "invalid_json"),
        ({"content": b" " * 5000, "headers": {"content-type": "application/json"}}, 413, "request_too_large"),
        ({"content": b'{"recording": true}', "headers": {"content-type": "text/plain"}}, 415, "unsupported_media_type"),
        ({"json": {"recording": True}, "headers": {"origin": "http://evil.example"}}, 403, "foreign_request"),
        ({"json": {"recording": True}, "headers": {"host": "evil.example"}}, 403, "foreign_request"),
    ],
)
def test_what_cannot_be_meant_or_comes_from_elsewhere_changes_nothing(tmp_path, monkeypatch, options, status, code):
    monkeypatch.chdir(tmp_path)
    with before(saying(FINE)[0]) as gateway:
        answer = ask(gateway, **options)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert httpx.delete(f"{gateway}/gateway/record", trust_env=False).status_code == 405
    assert not list(tmp_path.iterdir())


def test_with_a_token_only_whoever_has_it_may_change_a_recording(tmp_path):
    with before(saying(FINE)[0], token=TOKEN, record=tmp_path / "steps.csv") as gateway:
        stop = {"json": {"recording": False}}
        headers = [{}, {"authorization": "Bearer guess"}, {"authorization": f"Bearer {TOKEN}"}]
        assert [ask(gateway, **stop, headers=each).status_code for each in headers] == [401, 403, 200]


def test_a_file_of_somebody_else_is_told_and_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batchpilot-steps.csv").write_text("notes\n")
    with before(saying(FINE)[0]) as gateway:
        answer = ask(gateway, json={"recording": True})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "cannot_record")
    with pytest.raises(ValueError, match="no recording of steps"):
        Gateway(
            TunerSession(StaticTuner(Limits(8))),
            GatewaySettings("http://127.0.0.1:9", record=tmp_path / "batchpilot-steps.csv"),
        )

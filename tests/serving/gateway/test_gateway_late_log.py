"""What the gateway writes of requests that were late or failed."""

import json
from contextlib import ExitStack

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from gateway_scripts import before, post, saying  # noqa: E402
from gateway_servers import example, serving, wait_until  # noqa: E402

from batchpilot import SLO, Limits  # noqa: E402
from batchpilot.baselines import StaticTuner  # noqa: E402
from batchpilot.serving.gateway import Gateway, GatewaySettings  # noqa: E402
from batchpilot.serving.gateway.late_log import LINES_PER_S, LateLog  # noqa: E402
from batchpilot.serving.session.session import TunerSession  # noqa: E402

STEPS = example()
SECRET = "what nobody else should read "


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def asked_of_a_gateway(path, slo):
    """One streamed request through a gateway before a real upstream of simulated steps; what the log says of it."""
    session = TunerSession(StaticTuner(Limits(64)), window_ms=50.0)
    with ExitStack() as stack:
        upstream = stack.enter_context(serving(STEPS.App(STEPS.StepEngine(STEPS.slower(0.2)))))
        gateway = stack.enter_context(
            serving(Gateway(session, GatewaySettings(upstream, slo=slo, poll_s=0, late_log=path)))
        )
        body = {"model": "m", "prompt": SECRET * 40, "max_tokens": 12, "stream": True, "user": "somebody"}
        assert post(gateway, json=body).status_code == 200
        wait_until(lambda: not httpx.get(f"{gateway}/gateway/status", trust_env=False).json()["running"])
    return lines(path)


def test_a_request_that_kept_its_promise_is_not_written(tmp_path):
    assert asked_of_a_gateway(tmp_path / "late.jsonl", SLO(60_000, 60_000)) == []


def test_a_late_request_is_written_with_its_times_and_the_reason_and_nothing_of_what_it_said(tmp_path):
    path = tmp_path / "late.jsonl"
    (told,) = asked_of_a_gateway(path, SLO(0.01, 0.01))
    assert (told["model"], told["max_tokens"], told["output_tokens"]) == ("m", 12, 12)
    assert told["prompt_tokens"] > 100
    assert told["ttft_ms"] > told["promised_ttft_ms"] == 0.01
    assert told["tpot_ms"] > told["promised_tpot_ms"] == 0.01
    assert "ms at the server, behind" in told["why"]
    assert "ms a token beside 1 requests" in told["why"]
    assert "somebody" not in path.read_text()
    assert "nobody else" not in path.read_text()


def test_a_request_that_the_server_failed_is_written(tmp_path):
    path = tmp_path / "late.jsonl"

    failing, _ = saying(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\n{}")
    with before(failing, late_log=path) as gateway:
        assert post(gateway).status_code == 500
        wait_until(lambda: lines(path))
    (told,) = lines(path)
    assert "500" in told["why"]


def ticket():
    from batchpilot.serving.gateway.completions import Completion
    from batchpilot.serving.gateway.waiting import Ticket

    return Ticket(1, Completion(100, True, 12, SLO()), arrived_ms=0.0, turn=None)


def test_a_burst_of_late_requests_is_counted_and_not_written(tmp_path):
    now_s = 1000.0
    log = LateLog(tmp_path / "late.jsonl", clock=lambda: now_s)
    for _ in range(100):
        log.failed(ticket(), "why", "")
    assert len(lines(tmp_path / "late.jsonl")) == LINES_PER_S
    now_s = 1001.0
    log.failed(ticket(), "why", "")
    log.close()
    assert lines(tmp_path / "late.jsonl")[-1]["left_out_before"] == 100 - LINES_PER_S
    assert log.left_out == 0


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path):
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        LateLog(tmp_path)


def test_a_disk_that_is_full_ends_the_log_and_nothing_else(tmp_path):
    (tmp_path / "late.jsonl").symlink_to("/dev/full")
    log = LateLog(tmp_path / "late.jsonl")
    log.failed(ticket(), "why", "")
    assert "No space left" in log.fault
    log.failed(ticket(), "why", "")
    assert log.left_out == 1

"""A load test over HTTP: nothing lost, times honest, files complete."""

import asyncio
import json
import math

import numpy as np
import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

from gateway_servers import example, serving  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from batchpilot import Limits  # noqa: E402
from batchpilot.baselines import StaticTuner  # noqa: E402
from batchpilot.core import SLO  # noqa: E402
from batchpilot.runners.http.load.report import lateness  # noqa: E402
from batchpilot.runners.main import app  # noqa: E402
from batchpilot.serving.gateway import Gateway, GatewaySettings  # noqa: E402
from batchpilot.serving.load.run import LoadSettings, run_load  # noqa: E402
from batchpilot.serving.session.session import TunerSession  # noqa: E402
from batchpilot.workloads.table import RequestTable  # noqa: E402
from batchpilot.workloads.turns import Turns  # noqa: E402

STEPS = example()
RELAXED = SLO(5000.0, 500.0)


@pytest.fixture
def steps():
    return STEPS.StepEngine(STEPS.slower(0.1))


@pytest.fixture
def server(steps):
    with serving(STEPS.App(steps)) as address:
        yield address


def table(count, gap_ms=10.0, slo=RELAXED, output=4):
    return RequestTable.from_arrays(np.arange(count) * gap_ms, 20, output, slos=slo)


def loaded(requests, address, **settings):
    return asyncio.run(run_load(requests, LoadSettings(address, **settings)))


def test_every_request_ends_once_with_the_tokens_asked_for(server, steps):
    result = loaded(table(40), server)
    assert result.outcome.count("length") == 40
    assert result.outcome.generated_tokens.tolist() == [4] * 40
    assert result.statuses == {200: 40}
    assert result.outcome.goodput_fraction == 1.0
    assert (result.model, steps.running, steps.waiting) == ("steps", [], [])


def test_server_is_asked_how_long_its_tokens_are(server):
    assert loaded(table(1), server).bytes_per_token == pytest.approx(4.0)


def test_requests_go_out_on_time_while_others_are_unanswered(server, steps):
    result = loaded(table(10, gap_ms=20.0, output=200), server)
    starts = result.outcome.requests.arrival_ms + result.late_ms
    assert np.all(result.late_ms >= 0)
    assert np.all(result.outcome.e2e_ms > result.outcome.ttft_ms)
    assert starts[-1] < result.outcome.e2e_ms[0], "the last was sent before the first had its answer"


def test_refusals_and_failures_are_told_apart(server):
    session = TunerSession(StaticTuner(Limits(1, max_queued_tokens=1)))
    with serving(Gateway(session, GatewaySettings(server))) as front:
        refused = loaded(table(10, gap_ms=0.0, output=50), front).outcome
    assert refused.count("refused_on_arrival") == 9
    assert refused.count("length") == 1
    session = TunerSession(StaticTuner(Limits(1)))
    with serving(Gateway(session, GatewaySettings("http://127.0.0.1:9"))) as front:
        result = loaded(table(3), front, model="any")
    assert result.outcome.count("failed") == 3
    assert any("upstream_unreachable" in detail for detail in result.details)


def test_what_has_not_ended_in_time_is_unfinished(server):
    result = loaded(table(2, output=100_000), server, grace_s=0.2)
    assert result.outcome.count("unfinished") == 2
    assert np.all(np.isnan(result.outcome.e2e_ms))


def test_a_late_answer_is_no_goodput(server):
    outcome = loaded(table(5, slo=SLO(0.01, 500.0)), server).outcome
    assert (outcome.count("length"), outcome.goodput_fraction) == (5, 0.0)


def test_clients_of_a_closed_loop_send_their_next_request_when_the_last_has_ended(server):
    closed = RequestTable.from_arrays(np.zeros(12), 20, 4, slos=RELAXED, concurrency=3)
    outcome = loaded(closed, server).outcome
    due, ended = outcome.requests.arrival_ms, outcome.requests.arrival_ms + outcome.e2e_ms
    assert outcome.count("length") == 12
    under_way = [(due <= moment) & (ended > moment) for moment in due]
    assert max(int(at.sum()) for at in under_way) == 3


def test_a_turn_of_a_conversation_is_sent_its_think_time_after_the_answer_before(server):
    session, turn = np.repeat(np.arange(3), 3), np.tile(np.arange(3), 3)
    turns = Turns(session, np.full(9, 30.0))
    talks = RequestTable.from_arrays(10.0 * session + 30.0 * turn, 20, 4, slos=RELAXED, turns=turns)
    outcome = loaded(talks, server).outcome
    due, ended = outcome.requests.arrival_ms, outcome.requests.arrival_ms + outcome.e2e_ms
    assert outcome.count("length") == 9
    for row, later in enumerate(talks.turns.following()):
        if later >= 0:
            assert due[later] - ended[row] == pytest.approx(30.0)


def test_a_turn_that_was_refused_loses_the_later_ones_unsent(server, steps):
    turns = Turns(np.array([0, 1, 1]), np.zeros(3))
    talks = RequestTable.from_arrays([0.0, 5.0, 6.0], 20, [50, 4, 4], slos=RELAXED, turns=turns)
    session = TunerSession(StaticTuner(Limits(1, max_queued_tokens=1)))
    with serving(Gateway(session, GatewaySettings(server))) as front:
        result = loaded(talks, front)
    outcome = result.outcome
    assert outcome.finish_reason == ["length", "refused_on_arrival", "refused_on_arrival"]
    assert np.isnan(outcome.requests.arrival_ms).tolist() == [False, False, True]
    assert sum(result.statuses.values()) == 2
    late = lateness(result.late_ms)
    assert 0.0 <= late["client_late_p50_ms"] <= late["client_late_p100_ms"], "of those that were sent"


def test_an_empty_load_and_a_dead_server_are_refused_in_words(server):
    with pytest.raises(ValueError, match="the load is empty"):
        loaded(table(0), server)
    with pytest.raises(ValueError, match="names no model"):
        loaded(table(1), "http://127.0.0.1:9")


def test_command_writes_results_and_a_page_with_both_columns(server, tmp_path):
    arguments = ["load", "--url", server, "--scenario", "quick-chat", "--duration-s", "2", "--rate", "2", "--compare"]
    arguments += ["--out", str(tmp_path / "out"), "--json"]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    printed = json.loads(told.stdout)
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert printed["requests"] == len(stored["per_request"]["ttft_ms"]) == stored["ended_length"]
    assert stored["columns"]["simulated"]["requests"] == printed["requests"]
    assert math.isfinite(stored["client_late_p99_ms"])
    assert {"git_revision", "config_hash", "seed"} <= set(stored)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "over HTTP" in page
    assert "simulated" in page
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "--overwrite" in again.output

"""A server measured from outside: what its answers' times say of its steps, and of the way to them."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from typer.testing import CliRunner

from batchpilot import Limits, RequestTable, SaturationParameters, simulate
from batchpilot.latency.fitting.saturation_fit import fit
from batchpilot.latency.model.parameter_file import read_parameters
from batchpilot.runners.calibration.answers import Timed, read_answers
from batchpilot.runners.calibration.asking import design_groups
from batchpilot.runners.main import app
from batchpilot.serving.load.answers import Answered
from batchpilot.serving.outcomes import SERVED

TRUE = SaturationParameters(p_max=0.7, k_b=10.0, k_s=0.05, tau_0=12.0, tau_b=0.4, tau_c=5e-4)
FRONT_MS = 80.0


def run_command(*arguments):
    return CliRunner().invoke(app, list(arguments))


def answered(group, noise, rng):
    """A group as a simulated server answers it, whose clients are `FRONT_MS` away, tokens up to 4 ms more."""
    amid = bool(group.amid_tokens)
    arrivals = np.append(np.zeros(group.requests), [900.0] * amid)
    prompts = np.append(np.full(group.requests, group.prompt_tokens), [group.amid_tokens] * amid)
    outputs = np.append(np.full(group.requests, group.output_tokens), [1] * amid)
    requests = RequestTable.from_arrays(arrivals, prompts, outputs)
    seed = int(rng.integers(2**31))
    result = simulate(requests, TRUE, Limits(64, 2048), noise=noise, seed=seed, record_steps=True)
    ends = result.step_log[:, 0] + result.step_log[:, 4]
    told = []
    for row, (arrival, ttft, e2e) in enumerate(zip(arrivals, result.ttft_ms, result.e2e_ms, strict=True)):
        first = int(np.abs(ends - arrival - ttft).argmin())
        heard = FRONT_MS + ends[first : first + int(outputs[row])]
        heard = tuple(np.sort(heard + rng.uniform(0.0, 4.0, len(heard))))
        answer = Answered(
            SERVED, 200, FRONT_MS + arrival + ttft, FRONT_MS + arrival + e2e, int(outputs[row]), counted=True,
            heard_ms=heard,
        )  # fmt: skip
        told.append(Timed(float(arrival), int(prompts[row]), answer, amid and row == group.requests))
    return told


@pytest.mark.parametrize(("noise", "rounds", "most"), [(0.0, 1, 0.03), (0.2, 3, 0.12)])
def test_what_answers_tell_is_what_steps_cost(noise, rounds, most):
    rng = np.random.default_rng(1)
    told = [answered(group, noise, rng) for _ in range(rounds) for group in design_groups(32, 1024)]
    asked = read_answers(told, 0, "simulated")
    assert asked.front_ms == pytest.approx(FRONT_MS, rel=0.15)
    assert asked.noise == pytest.approx(noise, rel=0.15, abs=0.02)
    found = fit(asked.steps).parameters
    sizes, contexts = np.array([1.0, 4.0, 16.0, 32.0]), np.array([50.0, 1000.0, 9000.0, 20_000.0])
    errors = found.predict(sizes, sizes, contexts) / TRUE.predict(sizes, sizes, contexts) - 1.0
    prompts = np.array([64.0, 256.0, 1000.0])
    ones, zeros = np.ones(3), np.zeros(3)
    errors = np.append(errors, found.predict(ones, prompts, zeros) / TRUE.predict(ones, prompts, zeros) - 1.0)
    both = found.predict(np.array([9.0, 33.0]), np.array([520.0, 1056.0]), np.array([400.0, 1600.0]))
    both /= TRUE.predict(np.array([9.0, 33.0]), np.array([520.0, 1056.0]), np.array([400.0, 1600.0]))
    errors = np.append(errors, both - 1.0)
    assert np.abs(errors).max() < most


def test_a_design_within_bounds_and_no_other():
    groups = design_groups(5, 100)
    assert {group.requests for group in groups} == {1, 2, 4}
    assert {group.prompt_tokens for group in groups} <= {8, 16, 32, 64}
    assert [group for group in groups if group.requests == 1 and group.output_tokens > 1]
    assert {(group.requests, group.amid_tokens) for group in groups if group.amid_tokens} == {
        (2, 32), (2, 64), (4, 32), (4, 64),
    }  # fmt: skip
    with pytest.raises(ValueError, match="largest prompt is 4; it must be >= 8"):
        design_groups(1, 4)


def test_a_server_that_is_not_there_is_told_in_a_line():
    done = run_command("calibrate", "--url", "http://127.0.0.1:9", "--minutes", "0")
    assert done.exit_code == 2
    assert "names no model" in done.output


class Refusing(BaseHTTPRequestHandler):
    """Lists a model and serves nothing."""

    def do_GET(self):
        self.answer(200, b'{"data": [{"id": "one"}]}')

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(404, b'{"error": {"message": "not for you"}}')

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_server_that_serves_nothing_is_asked_one_round_and_its_reason_is_told():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = run_command("calibrate", "--url", f"http://127.0.0.1:{server.server_port}", "--largest-batch", "1")
    finally:
        server.shutdown()
        server.server_close()
    assert done.exit_code == 2
    assert "not for you" in done.output
    assert "round 2" not in done.output


def test_options_that_would_mean_nothing_are_refused():
    done = run_command("calibrate", "--measurements", "x.csv", "--minutes", "1")
    assert done.exit_code == 2
    assert "--minutes would change nothing without --url" in done.output
    assert "give one of these" in run_command("calibrate").output


def test_a_running_server_is_measured_and_its_file_says_what_lies_before_the_engine(tmp_path):
    pytest.importorskip("torch")
    from running_server import serving, tiny_runner

    out, steps = tmp_path / "latency.yaml", tmp_path / "steps.csv"
    with serving(tiny_runner()) as (_, url, _):
        done = run_command(
            "calibrate", "--url", url, "--model", "Llama-3-8B", "--largest-batch", "4", "--largest-prompt", "32",
            "--minutes", "0", "--out", str(out), "--steps", str(steps), "--json",
        )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert "lists no 'Llama-3-8B'" in done.stderr
    assert "Llama-3-8B" in out.read_text()
    assert told["front_ms"] >= 0.0
    assert SaturationParameters.from_yaml(out).predict_one(1, 1, 100) > 0.0
    dropped = sum(told["dropped"][name] for name in ("not_finite", "empty", "too_short", "too_long"))
    assert len(steps.read_text().splitlines()) == 1 + told["observations"] + dropped
    read = read_parameters(out)
    assert read.front_ms == told["front_ms"]
    assert read.noise == told["noise"] >= 0.0


def test_answers_that_come_whole_tell_no_noise():
    whole = Answered(SERVED, 200, 100.0, 500.0, 48, counted=True, streamed=False, heard_ms=(500.0,))
    assert read_answers([[Timed(0.0, 8, whole)]], 0, "simulated").noise is None

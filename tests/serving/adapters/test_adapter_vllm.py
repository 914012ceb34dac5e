r"""The adapter on vLLM's own scheduler class, on a CPU, or on its recorded interface where vLLM is not installed.

With vLLM's source distribution unpacked:

    python3 -m venv env && env/bin/pip install torch==2.13.0 -r vllm-0.33.0/requirements/common.txt \
        onnxruntime pytest httpx hypothesis -e .
    SITE=$(env/bin/python -c 'import site; print(site.getsitepackages()[0])')
    echo "$PWD/vllm-0.33.0" > $SITE/vllm.pth
    mkdir $SITE/vllm-0.33.0.dist-info
    cp vllm-0.33.0/PKG-INFO $SITE/vllm-0.33.0.dist-info/METADATA
    env/bin/python -m pytest tests/serving/adapters/test_adapter_vllm*.py
"""

import importlib
import itertools
import random
import time

import pytest
from adapter_tuners import ScriptedTuner
from adapter_vllm_steps import IS_REAL, finish_step, make_config, make_request, make_scheduler, plan_step, step

# isort: split
import vllm
from vllm.v1.engine import FinishReason
from vllm.v1.request import RequestStatus

from batchpilot.core import Limits
from batchpilot.latency.fitting.measurement_files import read_measurements
from batchpilot.serving.adapters import vllm_scheduler
from batchpilot.serving.adapters.versions import UnknownVersionError
from batchpilot.serving.adapters.vllm_refusals import MARK, check_answerable, output_has_error


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_config(tmp_path_factory.mktemp("model"))


def scheduler_under(config, *limits, then_raises=False, window_ms=1e6):
    """A scheduler of 16 requests and 512 tokens whose tuner gives limits one after another."""
    scheduler = make_scheduler(config, {"tuner": "static-8", "window_ms": window_ms})
    scheduler.control.session.switch(ScriptedTuner(*limits, then_raises=then_raises))
    scheduler.control.session.tick()
    return scheduler


def is_retryable(output):
    """Whether an output has the API server answer 503, in the installed version's way."""
    if output_has_error(vllm.__version__):
        return output.error.retryable and output.error.to_exception().status_code == 503
    return output.stop_reason.startswith(MARK)


def is_refused_late(output):
    """Whether an output tells of the guard."""
    told = output.error.message if output_has_error(vllm.__version__) else output.stop_reason
    return is_retryable(output) and "would have come too late" in told


def device(tokens):
    """Steps of 2 ms and 50 us a token."""
    time.sleep(0.002 + 5e-5 * tokens)


def taught(scheduler, device=device):
    """After a few steps, so that step times are known."""
    for number in range(6):
        scheduler.add_request(make_request(f"first {number}", 50 + 40 * number, max_tokens=2))
        step(scheduler, device)
    while scheduler.requests:
        step(scheduler, device)
    step(scheduler)
    return scheduler


@pytest.mark.skipif(not IS_REAL, reason="vLLM is not installed; the other tests run on its recorded interface")
def test_vllm_finds_the_class_by_its_name(config):
    name = f"{vllm_scheduler.__name__}.{vllm_scheduler.TunedScheduler.__name__}"
    config.scheduler_config.scheduler_cls = name
    try:
        assert config.scheduler_config.get_scheduler_cls() is vllm_scheduler.TunedScheduler
    finally:
        config.scheduler_config.scheduler_cls = None


def test_limits_hold_in_every_step(config):
    scheduler = scheduler_under(config, Limits(3, 100))
    for number in range(6):
        scheduler.add_request(make_request(str(number), 80))
    while scheduler.requests:
        plan, _ = step(scheduler)
        assert len(scheduler.running) <= 3
        assert plan.total_num_scheduled_tokens <= 100
    assert (scheduler.max_num_active_reqs, scheduler.max_num_scheduled_tokens) == (3, 100)


def test_limits_above_the_servers_own_stop_there(config):
    scheduler = scheduler_under(config, Limits(4096, 100_000))
    step(scheduler)
    assert (scheduler.max_num_active_reqs, scheduler.max_num_scheduled_tokens) == (16, 512)


def test_limits_above_max_num_active_seqs_stop_there(tmp_path):
    scheduler = scheduler_under(make_config(tmp_path, max_num_active_seqs=4), Limits(16))
    step(scheduler)
    assert scheduler.max_num_active_reqs == 4


def test_a_prompt_that_may_not_be_split_is_served_under_a_smaller_budget(tmp_path):
    config = make_config(tmp_path, max_num_batched_tokens=4096, enable_chunked_prefill=False)
    scheduler = scheduler_under(config, Limits(16, 100))
    scheduler.add_request(make_request("whole", 300))
    plan, _ = step(scheduler)
    assert plan.num_scheduled_tokens == {"whole": 300}


def test_step_target_keeps_prefill_out_of_long_steps(config, monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(vllm_scheduler.time, "perf_counter", lambda: now_s[0])

    def exact(tokens):
        now_s[0] += 0.002 + 5e-5 * tokens

    scheduler = taught(scheduler_under(config, Limits(16, step_target_ms=8.0)), exact)
    scheduler.add_request(make_request("long", 500))
    plan, _ = step(scheduler, exact)
    assert plan.total_num_scheduled_tokens == pytest.approx(120, abs=1)


def test_a_request_is_refused_with_a_retryable_error_while_max_queued_tokens_is_reached(config):
    scheduler = scheduler_under(config, Limits(16, max_queued_tokens=100))
    scheduler.add_request(make_request("in", 100))
    scheduler.add_request(make_request("out", 100))
    assert scheduler.has_requests()
    _, outputs = step(scheduler)
    assert outputs["out"].finish_reason == FinishReason.ERROR
    assert is_retryable(outputs["out"])
    assert outputs["in"].new_token_ids == [7]
    assert list(scheduler.requests) == ["in"]


def test_a_refusal_reaches_the_client_when_nothing_else_runs(config):
    scheduler = scheduler_under(config, Limits(16, max_queued_tokens=0))
    scheduler.add_request(make_request("out", 100))
    assert scheduler.has_requests()
    _, outputs = step(scheduler)
    assert outputs["out"].finish_reason == FinishReason.ERROR
    assert not scheduler.has_requests()


def test_a_client_hears_of_a_refusal_once(config):
    scheduler = scheduler_under(config, Limits(16, max_queued_tokens=100))
    scheduler.add_request(make_request("in", 100))
    scheduler.add_request(make_request("out", 100))
    assert ["out" in step(scheduler)[1] for _ in range(3)] == [True, False, False]


def test_ttft_guard_refuses_a_request_whose_turn_comes_too_late(config):
    scheduler = taught(scheduler_under(config, Limits(16, ttft_guard=1.0)))
    scheduler.add_request(make_request("late", 100, arrival_time=time.time() - 5.0))
    scheduler.add_request(make_request("fresh", 100))
    _, outputs = step(scheduler)
    assert is_refused_late(outputs["late"])
    assert outputs["fresh"].new_token_ids == [7]


def test_ttft_guard_refuses_one_that_still_waits_for_its_grammar(config):
    scheduler = taught(scheduler_under(config, Limits(16, ttft_guard=1.0)))
    request = make_request("late", 100, arrival_time=time.time() - 5.0)
    request.status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
    scheduler.add_request(request)
    assert is_refused_late(step(scheduler)[1]["late"])


def test_ttft_guard_tells_a_hopeless_request_before_its_turn_comes(config):
    scheduler = taught(scheduler_under(config, Limits(1, ttft_guard=1.0)))
    scheduler.add_request(make_request("runs", 10))
    step(scheduler)
    scheduler.add_request(make_request("late", 100, arrival_time=time.time() - 5.0))
    scheduler.add_request(make_request("fresh", 100))
    outputs = step(scheduler)[1]
    assert is_refused_late(outputs["late"])
    assert set(scheduler.requests) == {"runs", "fresh"}


def test_a_request_names_its_slo_class(config):
    scheduler = taught(scheduler_under(config, Limits(16, ttft_guard=1.0)))
    for name in ("batch", "realtime"):  # 10 s and 0.5 s
        request = make_request(name, 100, arrival_time=time.time() - 5.0, extra_args={"slo": name})
        scheduler.add_request(request)
    _, outputs = step(scheduler)
    assert outputs["batch"].new_token_ids == [7]
    assert is_refused_late(outputs["realtime"])


def test_a_preempted_request_is_not_refused(config):
    scheduler = taught(scheduler_under(config, Limits(16, ttft_guard=1.0)))
    scheduler.add_request(make_request("a", 100, max_tokens=50))
    step(scheduler)
    scheduler.requests["a"].arrival_time -= 5.0
    scheduler.reset_prefix_cache(reset_running_requests=True)
    assert scheduler.requests["a"].status == RequestStatus.PREEMPTED
    assert step(scheduler)[1]["a"].new_token_ids == [7]


def test_a_step_is_read_as_if_every_request_were_asked(config):
    scheduler = scheduler_under(config, Limits(6, 200))
    rng = random.Random(0)
    for number in range(40):
        scheduler.add_request(make_request(str(number), rng.randrange(1, 400), max_tokens=rng.randrange(1, 20)))
    seen = []
    while scheduler.requests:
        if len(seen) % 17 == 16:
            scheduler.reset_prefix_cache(reset_running_requests=True)
        planned = plan_step(scheduler)
        step_read = scheduler._planned[id(planned[0])]
        asked = {name: scheduler.requests[name] for name in planned[0].num_scheduled_tokens}
        done = {name: r.num_computed_tokens - planned[0].num_scheduled_tokens[name] for name, r in asked.items()}
        prefilled = [name for name, r in asked.items() if done[name] < max(r.num_prompt_tokens, r.num_tokens - 1)]
        assert step_read.context_tokens == sum(done.values())
        assert sorted(name for name, _ in step_read.prefills) == sorted(prefilled)
        seen.append((bool(prefilled), bool(step_read.preempted), len(asked) - len(prefilled)))
        finish_step(scheduler, planned)
    assert {prefills for prefills, _, _ in seen} == {True, False}
    assert any(preempted for _, preempted, _ in seen)
    assert scheduler.control.session._recorder.now.completions == 40
    assert scheduler.contained.faults == 0


def test_overlapping_steps_of_asynchronous_scheduling_count_each_request_once(config):
    scheduler = scheduler_under(config, Limits(16))
    for number in range(5):
        scheduler.add_request(make_request(str(number), 300, max_tokens=8))
    before, tokens, finished = plan_step(scheduler), 0, 0
    while scheduler.requests:
        planned = plan_step(scheduler)
        for output in finish_step(scheduler, before, device).values():
            tokens += len(output.new_token_ids)
            finished += output.finish_reason == FinishReason.LENGTH
        before = planned
    counts = scheduler.control.session._recorder.now
    assert (tokens, finished) == (40, 5)
    assert (counts.generated_tokens, counts.completions, counts.prefill_tokens) == (40, 5, 1500)
    assert scheduler.control.session.status()["odd_events"] == 0


def test_windows_say_what_happened(config):
    scheduler = scheduler_under(config, Limits(16), window_ms=20.0)
    for number in range(4):
        scheduler.add_request(make_request(str(number), 100, max_tokens=40))
    scheduler.finish_requests("3", RequestStatus.FINISHED_ABORTED)
    while scheduler.requests:
        step(scheduler, device)
    windows = scheduler.control.session.tuner.heard
    assert sum(window.steps for window in windows) >= 1
    assert all(window.limits == Limits(16) for window in windows)
    # A window may end before the first step does, and knows nothing of KV then.
    measured = [window for window in windows if window.steps and window.running]
    assert measured
    assert all(0 < window.kv_used_fraction < 1 for window in measured)
    assert scheduler.control.session.status()["odd_events"] == 0


def test_time_before_the_scheduler_counts_as_waiting(config):
    scheduler = scheduler_under(config, Limits(16), window_ms=1.0)
    step(scheduler, device)
    scheduler.add_request(make_request("late", 100, max_tokens=3, arrival_time=time.time() - 5.0))
    while scheduler.requests:
        step(scheduler, device)
    heard = scheduler.control.session.tuner.heard
    assert [window.ttft_ms_p50 > 5000.0 for window in heard if window.ttft_ms_p50 > 0] == [True]


def test_a_tuner_that_raises_leaves_the_last_limits_and_the_engine_at_work(config):
    scheduler = scheduler_under(config, Limits(4), Limits(5), then_raises=True, window_ms=1.0)
    for number in range(12):
        scheduler.add_request(make_request(str(number), 50))
    finished = set()
    while scheduler.requests:
        finished |= {name for name, output in step(scheduler, device)[1].items() if output.finish_reason is not None}
    assert len(finished) == 12
    assert scheduler.max_num_active_reqs == 5
    assert scheduler.control.session.status()["tuner_errors"] > 0


OURS = {
    "limits": "active_requests",
    "the budget": "token_budget",
    "arrival": "refuses_arrival",
    "waiting": "hear_waiting",
    "the guard": "refuses_turn",
    "the hopeless": "hopeless",
    "begun": "hear_begun",
    "the cache": "hear_cached",
    "steps": "hear_step",
}


@pytest.mark.parametrize("fails", OURS.values(), ids=OURS)
def test_whatever_fails_in_our_code_leaves_vllms_own_scheduling_in_force(config, monkeypatch, fails):
    scheduler = taught(scheduler_under(config, Limits(3, 100, ttft_guard=1.0, max_queued_tokens=10_000)))

    def failing(*arguments, **options):
        raise ZeroDivisionError(fails)

    monkeypatch.setattr(scheduler.control, fails, failing)
    for number in range(8):
        scheduler.add_request(make_request(str(number), 80))
    scheduler.add_request(make_request("gone", 80))
    scheduler.finish_requests("gone", RequestStatus.FINISHED_ABORTED)
    served = {}
    while scheduler.requests:
        served |= {name: output for name, output in step(scheduler)[1].items() if output.finish_reason is not None}
    assert {name for name, output in served.items() if output.finish_reason == FinishReason.LENGTH} == set("01234567")
    assert scheduler.contained.faults > 0
    assert fails in scheduler.contained.last_fault
    if fails in ("active_requests", "token_budget"):
        assert (scheduler.max_num_active_reqs, scheduler.max_num_scheduled_tokens) == (16, 512)


def test_a_refusal_that_cannot_be_told_leaves_the_request_in_the_queue(config, monkeypatch):
    scheduler = scheduler_under(config, Limits(16, max_queued_tokens=0))

    def failing(*arguments):
        raise TypeError("Unexpected keyword argument 'error'")  # vLLM 0.32, where it ended the engine core

    monkeypatch.setattr(vllm_scheduler, "refusal", failing)
    scheduler.add_request(make_request("out", 100))
    ended = [step(scheduler)[1].get("out") for _ in range(6)]
    assert FinishReason.LENGTH in [output.finish_reason for output in ended if output is not None]
    assert scheduler.contained.faults == 1


def test_an_end_of_the_process_is_no_fault(config):
    scheduler = scheduler_under(config, Limits(16))
    with pytest.raises(KeyboardInterrupt), scheduler.contained:
        raise KeyboardInterrupt
    assert scheduler.contained.faults == 0


@pytest.mark.skipif(IS_REAL, reason="pretends another version, which the real package is not")
def test_before_033_a_refusal_travels_as_a_stop_reason(config, monkeypatch):
    monkeypatch.setattr(vllm, "__version__", "0.32.0")
    monkeypatch.setattr(vllm_scheduler, "check_answerable", lambda version: None)
    scheduler = scheduler_under(config, Limits(16, max_queued_tokens=0))
    scheduler.add_request(make_request("out", 100))
    out = step(scheduler)[1]["out"]
    assert (out.finish_reason, out.error) == (FinishReason.ERROR, None)
    assert out.stop_reason.startswith(MARK + "The server is busy")


@pytest.mark.skipif(IS_REAL, reason="there the plugin is installed")
def test_before_033_the_server_does_not_start_without_the_plugin(config, monkeypatch):
    monkeypatch.setattr(vllm, "__version__", "0.32.0")
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    assert vllm_scheduler.check_answerable is check_answerable
    with pytest.raises(RuntimeError, match="answers 500"):
        scheduler_under(config, Limits(16))


def test_a_tuner_moves_the_batch_size_of_a_server(config):
    names = itertools.count()
    scheduler = make_scheduler(
        config, {"tuner": "dynamic", "window_ms": 25.0, "config": {"adjustment_interval_ms": 50}}
    )
    sizes = set()
    give_up = time.monotonic() + 30.0  # a busy machine may stretch steps and with them windows
    while len(sizes) < 2 and time.monotonic() < give_up:
        while len(scheduler.requests) < 24:
            scheduler.add_request(make_request(str(next(names)), 40, max_tokens=20))
        step(scheduler, device)
        sizes.add(scheduler.max_num_active_reqs)
    assert len(sizes) > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tunr": "hybrid"}, "did you mean 'tuner'"),
        ({"tuner": "hybrd"}, "did you mean 'hybrid'"),
        ({"track": "guard"}, "unknown track 'guard'"),
        ({"ttft_ms": -1}, "must be above 0"),
        ("hybrid", "must be a mapping"),
    ],
)
def test_a_wrong_setting_keeps_the_server_from_starting(config, settings, message):
    with pytest.raises(ValueError, match=message):
        make_scheduler(config, settings)


def test_an_unknown_version_is_refused_on_import(monkeypatch):
    monkeypatch.setattr(vllm, "__version__", "0.99.0")
    with pytest.raises(UnknownVersionError, match=r"vllm is '0\.99\.0'"):
        importlib.reload(vllm_scheduler)


def test_steps_are_recorded_as_the_scheduler_knows_them(config, tmp_path):
    path = tmp_path / "steps.csv"
    scheduler = make_scheduler(config, {"tuner": "static-8", "record": str(path)})
    scheduler.add_request(make_request("a", 100, max_tokens=3))
    while scheduler.requests:
        step(scheduler)
    scheduler.shutdown()
    steps = read_measurements(path).observations
    assert steps.tokens.tolist() == [100, 1, 1]
    assert steps.batch_size.tolist() == [1, 1, 1]

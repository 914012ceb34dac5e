"""A tuner's discipline on vLLM's waiting line: the line itself, and the scheduler that puts it in order."""

import itertools
from collections import deque
from types import SimpleNamespace

import pytest
from adapter_tuners import ScriptedTuner
from adapter_vllm_steps import make_config, make_request, make_scheduler, step

from batchpilot.core import SLO, Limits
from batchpilot.serving.adapters.vllm_order import WaitingOrder

PROMISES = {"chat": SLO(1000.0, 50.0), "batch": SLO(60_000.0, 500.0)}
LINE = [("a", 300, 5, "chat"), ("b", 20, 90, "batch"), ("c", 100, 40, "chat")]
"""Name, prompt, output and promise, a tenth of a second apart."""


def waiting(line=LINE):
    return deque(
        SimpleNamespace(
            name=name,
            arrival_time=0.1 * place,
            num_prompt_tokens=prompt,
            max_tokens=output,
            slo=PROMISES[promise],
            begun=False,
        )
        for place, (name, prompt, output, promise) in enumerate(line)
    )


def order():
    return WaitingOrder(lambda request: request.slo, lambda request: not request.begun)


def names(line):
    return "".join(request.name for request in line)


@pytest.mark.parametrize(
    ("discipline", "expected"),
    [("spf", "bca"), ("sjf", "acb"), ("slo", "acb"), ("deadline", "cab"), ("fair", "abc"), (None, "abc")],
)
def test_the_line_is_put_in_the_order_of_a_discipline(discipline, expected):
    line, kept = waiting(), order()
    kept.hear_arrival()
    kept.put(line, discipline)
    assert names(line) == expected


def test_who_was_preempted_stays_in_front():
    line, kept = waiting(), order()
    line[2].begun = True
    kept.put(line, "spf")
    assert names(line) == "cba"


def test_the_line_goes_back_to_the_order_of_arrival_when_the_tuner_has_no_order():
    line, kept = waiting(), order()
    kept.put(line, "spf")
    kept.put(line, None)
    assert names(line) == "abc"


def test_a_line_of_another_policy_than_first_come_first_served_is_left_alone():
    line, kept = list(waiting()), order()
    kept.put(line, "spf")
    assert names(line) == "abc"


def test_nobody_is_sorted_while_nobody_came():
    line, kept = waiting(), order()
    kept.put(line, "spf")
    line.reverse()
    kept.put(line, "spf")
    assert names(line) == "acb"
    kept.hear_arrival()
    kept.put(line, "spf")
    assert names(line) == "bca"


def first_begun(tmp_path, discipline):
    """Which of three waiting prompts a scheduler of one request at a time takes first."""
    scheduler = make_scheduler(make_config(tmp_path), {"tuner": "static-8", "window_ms": 1e6})
    scheduler.control.session.switch(ScriptedTuner(Limits(1, 512, discipline=discipline)))
    scheduler.control.session.tick()
    for name, length in (("long", 200), ("short", 20), ("middle", 100)):
        scheduler.add_request(make_request(name, length, max_tokens=4))
    begun = []
    for _ in itertools.takewhile(lambda _: scheduler.has_requests(), range(40)):
        begun += [request.request_id for request in scheduler.running if request.request_id not in begun]
        step(scheduler)
        begun += [request.request_id for request in scheduler.running if request.request_id not in begun]
    return begun


def test_the_scheduler_takes_the_shortest_prompt_first(tmp_path):
    assert first_begun(tmp_path, "spf") == ["short", "middle", "long"]


def test_without_a_discipline_the_scheduler_takes_who_came_first(tmp_path):
    assert first_begun(tmp_path, None) == ["long", "short", "middle"]

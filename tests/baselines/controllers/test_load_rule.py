"""The load rule moves the discipline with load."""

from batchpilot import SLO, Limits
from batchpilot.baselines import BASELINES, Setting
from batchpilot.baselines.controllers.load_rule import CALM_WINDOWS
from batchpilot.core import WindowMetrics

TTFT_MS = 1000.0


class Server:
    """Tells a tuner windows of a second, one behind another."""

    def __init__(self):
        self.tuner = BASELINES["load-rule"](Setting(slo=SLO(TTFT_MS, 50.0)))
        self.now_ms = 0.0

    def hear(self, queue, oldest_wait_ms, times=1):
        for _ in range(times):
            counts = {"steps": 20, "prefill_tokens": 4000, "generated_tokens": 200, "arrivals": 10, "completions": 8}
            window = WindowMetrics(
                limits=self.tuner.ask(), start_ms=self.now_ms, duration_ms=1000.0, busy_ms=1000.0, queue=queue,
                oldest_wait_ms=oldest_wait_ms, running=8, batch_size_mean=8.0, **counts,
            )  # fmt: skip
            self.tuner.tell(window)
            self.now_ms += 1000.0
        return self.tuner.ask()


def test_who_comes_is_served_at_once_while_nobody_waits():
    server = Server()
    assert server.hear(0, 0.0, 5).discipline == "fcfs"


def test_waiting_is_by_class_under_medium_load_and_by_priority_under_high():
    server = Server()
    assert server.hear(3, 0.4 * TTFT_MS).discipline == "slo"
    high = server.hear(30, 0.6 * TTFT_MS)
    assert high.discipline == "priority"


def test_low_priority_is_shed_under_high_load_by_what_prompts_can_be_computed_in_time():
    server = Server()
    limits = server.hear(30, 0.6 * TTFT_MS, 12)
    assert limits.max_queued_tokens == 4 * TTFT_MS, "4 prompt tokens a ms"
    assert server.hear(0, 0.0, CALM_WINDOWS).max_queued_tokens is None


def test_a_load_counts_as_lower_only_after_some_windows():
    server = Server()
    server.hear(30, TTFT_MS)
    assert server.hear(0, 0.0, CALM_WINDOWS - 1).discipline == "priority"
    assert server.hear(0, 0.0).discipline == "fcfs"


def test_it_starts_from_the_limits_it_is_given():
    tuner = BASELINES["load-rule"](Setting(base=Limits(7, token_budget=300)))
    assert (tuner.ask().batch_size, tuner.ask().token_budget) == (7, 300)

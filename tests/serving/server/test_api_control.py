"""What an operator may do to a running tuner: switch, try a policy, listen to an adviser; refusals change nothing."""

import math

import pytest
from policy_samples import BASE, always, make_policy_bytes

from batchpilot.configs.errors import ConfigError
from batchpilot.core import Limits, WindowMetrics
from batchpilot.serving import TunerSession
from batchpilot.serving.rollout.canary import BLOCK_WINDOWS
from batchpilot.serving.rollout.control import NotForThisTunerError, TunerControl, make_setting, tuner_by_name
from batchpilot.tuners import NotObeyedError


class Server:
    """A session under control, told one window after the other."""

    def __init__(self, name="static-16"):
        self.ms = 0.0
        self.control = TunerControl(name, make_setting())
        self.session = TunerSession(self.control.staged, window_ms=100.0, clock=lambda: self.ms / 1000.0)
        self.control.attach(self.session)
        self.served = 0

    def window(self, late=0, requests=10, failed=False):
        """One window in which so many requests ended, some of them late."""
        for k in range(requests):
            self.served += 1
            promised_ms = 1.0 if k < late else math.inf
            self.session.on_arrival(self.served, 10, ttft_target_ms=promised_ms, waited_ms=10.0)
            self.session.on_first_token(self.served)
            self.session.on_finish(self.served, 5)
        self.ms += 100.0
        self.session.on_step(requests, 100, 0, 50.0, failed=failed)

    @property
    def batch_size(self):
        return self.session.limits().batch_size


@pytest.fixture
def server():
    return Server()


def test_another_tuner_decides_after_a_switch(server):
    server.control.switch("static-64")
    server.window()
    assert server.batch_size == 64
    assert server.control.status()["tuner"] == "static-64"


@pytest.mark.parametrize("name", ["hybrd", "", "policy", "policy:/etc/passwd", "static-16\n"])
def test_a_switch_to_what_is_no_tuner_changes_nothing(server, name):
    with pytest.raises(ValueError, match=r"tuner|policy"):
        server.control.switch(name)
    with pytest.raises(ValueError, match="track"):
        server.control.switch("static-64", "everything")
    server.window()
    assert server.batch_size == 16


def test_the_configuration_is_changed_as_a_whole_or_not_at_all():
    server = Server("dynamic")
    before = server.control.config
    for wrong in ({"max_batch_size": 0}, {"max_batch_size": 32, "min_batch_size": 64}, {"max_batch": 3}):
        with pytest.raises(ConfigError):
            server.control.configure({"growth_coefficient": 0.3, **wrong})
    assert server.control.config == before
    assert server.control.configure({"max_batch_size": 128}).max_batch_size == 128
    assert server.control.config.max_batch_size == 128


@pytest.mark.filterwarnings("ignore::batchpilot.configs.errors.ConfigWarning")
def test_a_tuner_that_takes_no_changes_starts_anew_under_them():
    server = Server("aimd")
    assert server.control.configure({"max_batch_size": 4, "initial_batch_size": 3}).max_batch_size == 4
    server.window()
    assert server.batch_size <= 4
    assert server.control.config.max_batch_size == 4


def test_a_size_by_hand_and_a_probe_are_for_tuners_that_have_them(server):
    with pytest.raises(NotForThisTunerError, match="dynamic or hybrid"):
        server.control.set_batch_size(4)
    with pytest.raises(NotForThisTunerError, match="probe"):
        server.control.probe()
    server.control.switch("hybrid")
    server.control.set_batch_size(24)
    server.window()
    assert server.batch_size == 24
    with pytest.raises(ValueError, match="batch_size"):
        server.control.set_batch_size(100_000)
    server.control.probe()
    server.window(requests=0)
    assert server.control.status()["phase"] == "INITIAL_PROBING"


def test_the_documents_spelling_of_hybrid_is_taken(server):
    server.control.switch("hybird")
    assert server.control.status()["strategy"] == "hybrid"
    assert Server("hybird").control.status()["strategy"] == "hybrid"


def test_a_reset_goes_to_the_safe_state_at_the_minimum_size():
    server = Server("dynamic")
    server.control.set_batch_size(32)
    assert "batch size 1" in server.control.reset()
    status = server.control.status()
    assert (status["phase"], server.batch_size) == ("SAFE_FALLBACK", 1)
    assert (status["best_batch_size"], status["consecutive_failures"]) == (None, 0)


@pytest.mark.parametrize("name", ["dynamic", "hybrid", "guarded-adaptive", "aimd", "static-16"])
def test_a_disabled_tuner_obeys_no_order_says_so_and_moves_nothing(name):
    server = Server(name)
    server.window()
    before = server.session.limits()
    server.control.configure({"enabled": False})
    orders = [
        server.control.probe,
        server.control.reset,
        lambda: server.control.set_batch_size(24),
        lambda: server.control.switch("static-64"),
        lambda: server.control.try_policy(make_policy_bytes(), share=1.0),
    ]
    for order in orders:
        with pytest.raises(NotObeyedError, match=r"disabled.*stays"):
            order()
        server.window(failed=True)
        assert server.session.limits() == before
    assert server.control.status()["enabled"] is False
    server.control.configure({"enabled": True})
    server.control.switch("static-64")
    server.window()
    assert server.batch_size == 64


def test_a_disabled_tuner_that_is_enabled_again_is_the_one_that_was_chosen():
    server = Server("aimd")
    server.control.configure({"enabled": False})
    server.control.configure({"enabled": True})
    assert server.control.staged.decider.name == "aimd"


def test_a_strategy_in_the_configuration_takes_over_whichever_tuner_decides():
    server = Server("aimd")
    server.control.configure({"strategy": "static", "fixed_batch_size": 12})
    server.window()
    assert server.batch_size == 12
    server.control.configure({"strategy": "hybird"})
    assert server.control.status()["strategy"] == "hybrid"


@pytest.mark.parametrize("value", [0.005, 0.3])
def test_a_performance_threshold_out_of_its_range_is_refused_while_running(value):
    server = Server("dynamic")
    before = server.control.config
    with pytest.raises(ConfigError, match=r"performance_threshold.*0\.01-0\.2"):
        server.control.configure({"performance_threshold": value, "growth_coefficient": 0.3})
    assert server.control.config == before


def test_a_policy_on_trial_decides_its_share_of_the_windows(server):
    server.control.try_policy(make_policy_bytes(), share=0.25, promote_after=10_000)
    sizes = []
    for _ in range(40 * BLOCK_WINDOWS):
        sizes.append(server.session.limits() != Limits(16, 2048))
        server.window()
    assert sum(sizes) / len(sizes) == pytest.approx(0.25, abs=0.05)


def test_a_policy_that_serves_worse_is_rolled_back(server):
    server.control.try_policy(make_policy_bytes(), share=0.5)
    for _ in range(100):
        server.window(late=0 if server.batch_size == 16 else 8)
    trial = server.control.status()["trial"]
    assert (trial["verdict"], trial["candidate"]) == ("rolled back", None)
    assert "SLO attainment 0.2" in trial["reason"]
    assert server.batch_size == 16


def test_a_policy_that_serves_no_worse_stays(server):
    server.control.try_policy(make_policy_bytes(), share=0.5, promote_after=10)
    for _ in range(60):
        server.window(late=1)
    assert server.control.status()["trial"]["verdict"] == "promoted"
    assert server.control.staged.decider.name == "policy"


@pytest.mark.parametrize("requests", [0, 1])
def test_a_policy_is_not_promoted_before_enough_requests_ended_on_either_side(server, requests):
    server.control.try_policy(make_policy_bytes(), share=0.5, promote_after=10)
    for _ in range(40):
        server.window(requests=requests)
    trial = server.control.status()["trial"]
    assert trial["verdict"] == "running"
    assert "30 are needed" in trial["reason"]
    for _ in range(20):
        server.window()
    assert server.control.status()["trial"]["verdict"] == "promoted"


def test_a_whole_swap_is_held_against_what_was_before(server):
    for _ in range(20):
        server.window()
    server.control.try_policy(make_policy_bytes(), share=1.0)
    assert server.batch_size == 16
    for _ in range(20):
        server.window(late=9 if server.control.staged.candidate else 0)
    assert server.control.status()["trial"]["verdict"] == "rolled back"
    assert server.batch_size == 16


def test_a_policy_whose_steps_fail_is_rolled_back(server):
    server.control.try_policy(always([1, 1, 1]), share=0.5)
    for _ in range(40):
        server.window(failed=server.control.staged.ask() != Limits(16, 2048))
    assert "failed steps" in server.control.status()["trial"]["reason"]


def test_a_policy_that_raises_is_rolled_back_at_once(server):
    server.control.try_policy(make_policy_bytes(), share=1.0)

    def tell(_):
        raise RuntimeError("a bug")

    server.control.staged.candidate.tell = tell
    server.window()
    trial = server.control.status()["trial"]
    assert (trial["verdict"], trial["reason"]) == ("rolled back", "it raised RuntimeError: a bug")
    assert server.session.status()["tuner_errors"] == 0


@pytest.mark.parametrize(
    "damage", [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: b"\x00" * 99, lambda d: d[:50] + b"x" + d[51:]]
)
def test_a_damaged_policy_is_refused_and_the_tuner_stays(server, damage):
    with pytest.raises(ValueError, match=r"."):
        server.control.try_policy(damage(make_policy_bytes()))
    assert server.control.status()["trial"] is None
    assert server.batch_size == 16


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.5}, {"share": math.nan}, {"promote_after": 0}])
def test_a_trial_with_values_out_of_bounds_is_refused(server, wrong):
    with pytest.raises(ValueError, match=r"share|promote_after"):
        server.control.try_policy(make_policy_bytes(), **wrong)
    assert server.control.staged.candidate is None


def test_a_trial_is_withdrawn_by_hand_once(server):
    server.control.try_policy(make_policy_bytes(), share=1.0)
    assert server.control.withdraw_policy() is True
    assert server.control.withdraw_policy() is False
    server.window()
    assert server.batch_size == 16


def test_an_adviser_decides_nothing_and_is_compared(server):
    server.control.advise_by("static-64")
    for _ in range(5):
        server.window()
    shadow = server.control.status()["shadow"]
    assert server.batch_size == 16
    assert (shadow["advice"]["batch_size"], shadow["windows"], shadow["agreement"]) == (64, 5, 0.0)
    assert shadow["batch_size_ratio"] == pytest.approx(4.0)
    server.control.advise_by(None)
    assert server.control.status()["shadow"] is None


def test_an_adviser_that_raises_disturbs_nothing(server):
    server.control.advise_by("static-64")

    def tell(_):
        raise RuntimeError("a bug")

    server.control.staged.shadow.tuner.tell = tell
    server.window()
    assert server.control.status()["shadow"]["errors"] == 1
    assert server.session.status()["tuner_errors"] == 0


def test_a_policy_file_is_a_tuner_by_its_path(tmp_path):
    path = tmp_path / "p.onnx"
    path.write_bytes(make_policy_bytes())
    assert tuner_by_name(f"policy:{path}", make_setting()).ask() == BASE


def test_a_reset_forgets_and_ends_the_trial(server):
    server.control.try_policy(make_policy_bytes(), share=1.0)
    server.control.reset()
    assert server.control.status()["trial"]["reason"] == "the tuner was reset"
    server.window()
    assert server.control.status()["windows_heard"] == 1
    assert isinstance(server.session.latest, WindowMetrics)

"""Ray Serve scaling by the fleet's rules: what a policy sees of Ray, and real replicas that come and go."""

import asyncio
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve", exc_type=ImportError)

from batchpilot.serving.adapters.ray_serve_scaling import ScalerPolicy, scaling_policy  # noqa: E402

ROOT = Path(__file__).parents[3]
MOST = 3


def context(serving=2, target=None, queued=0, running=0, now_s=0.0, stats=None):
    """As Ray tells it, at a target of 4 requests a replica."""
    return SimpleNamespace(
        current_num_replicas=serving,
        target_num_replicas=serving if target is None else target,
        total_queued_requests=queued,
        total_running_requests=running,
        aggregated_metrics=stats,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=8,
        current_time=now_s,
        config=SimpleNamespace(get_target_ongoing_requests=lambda: 4),
    )


def test_a_policy_follows_its_rule_within_ray_s_bounds():
    assert ScalerPolicy()(context(queued=30)) == (3, {})
    assert ScalerPolicy()(context(running=8)) == (3, {})
    assert ScalerPolicy()(context(running=5)) == (2, {})
    assert ScalerPolicy()(context(running=1)) == (1, {})
    assert ScalerPolicy()(context(serving=1, running=0)) == (1, {})
    assert ScalerPolicy()(context(serving=8, queued=300)) == (8, {})


def test_an_answer_holds_until_the_rule_wants_to_be_asked_again():
    policy = ScalerPolicy(interval_s=10.0)
    assert policy(context(queued=30, now_s=0.0))[0] == 3
    assert policy(context(serving=3, running=0, now_s=9.0))[0] == 3
    assert policy(context(serving=3, running=0, now_s=10.0))[0] == 2


def test_what_replicas_tell_of_themselves_goes_before_what_ray_counts():
    stats = {"utilisation": {"a": 0.9, "b": 1.0}, "ttft_s": {"a": 3.0, "b": float("nan")}}
    assert ScalerPolicy()(context(running=1, stats=stats))[0] == 3
    assert ScalerPolicy("response-time", target_s=2.0)(context(stats=stats))[0] == 3
    rates = {"tokens_per_s": {"a": 900.0, "b": 600.0}}
    assert ScalerPolicy("predictive", tokens_per_replica_s=500.0, headroom=1.0)(context(stats=rates))[0] == 3


def test_rules_that_nobody_can_follow_are_refused():
    with pytest.raises(ValueError, match="clairvoyant"):
        scaling_policy("clairvoyant")
    with pytest.raises(TypeError):
        scaling_policy("queue-and-use", up_que=3)


@serve.deployment
class Slow:
    async def __call__(self, seconds):
        await asyncio.sleep(seconds)


@pytest.mark.real
@pytest.mark.skipif(
    "BATCHPILOT_REAL_REPLICAS" not in os.environ,
    reason="a real cluster needs processors of its own: it passed in CI and failed on a busy machine; set "
    "BATCHPILOT_REAL_REPLICAS=1",
)
def test_real_replicas_come_under_load_and_go_without_it():
    ray.init(
        num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}}
    )
    try:
        serve.start(proxy_location="Disabled")
        scaled = Slow.options(
            max_ongoing_requests=2,
            ray_actor_options={"num_cpus": 0.1},
            autoscaling_config={
                "min_replicas": 1,
                "max_replicas": MOST,
                "target_ongoing_requests": 2,
                "metrics_interval_s": 1.0,
                "look_back_period_s": 2.0,
                "upscale_delay_s": 0.0,
                "downscale_delay_s": 0.0,
                "policy": scaling_policy("queue-and-use", interval_s=1.0, up_queue=2.0),
            },
        )
        handle = serve.run(scaled.bind(), name="scaled", route_prefix=None)
        seen = [_running()]
        over = threading.Event()

        def ask():
            while not over.is_set():
                with suppress(Exception):  # a client that is told no, or waits too long on a slow machine, asks again
                    handle.remote(0.2).result(timeout_s=60)

        clients = [threading.Thread(target=ask) for _ in range(16)]
        for client in clients:
            client.start()
        _wait(seen, MOST)
        over.set()
        for client in clients:
            client.join()
        _wait(seen, 1)
        assert seen[0] == 1
        assert max(seen) == MOST
        assert seen[-1] == 1
    finally:
        serve.shutdown()
        ray.shutdown()


def _running():
    return serve.status().applications["scaled"].deployments["Slow"].replica_states.get("RUNNING", 0)


def _wait(seen, wanted):
    until = time.monotonic() + 300
    while seen[-1] != wanted:
        assert time.monotonic() < until, seen
        time.sleep(0.5)
        if _running() != seen[-1]:
            seen.append(_running())

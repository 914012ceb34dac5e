"""Several models behind one door: each engine has an estimate and a concurrency of its own, and adapters share one."""

import asyncio
import json
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

httpx = pytest.importorskip("httpx")
pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from gateway_servers import example, serving, wait_until  # noqa: E402

from batchpilot import Limits  # noqa: E402
from batchpilot.baselines import StaticTuner  # noqa: E402
from batchpilot.latency.fitting.measurement_files import read_measurements  # noqa: E402
from batchpilot.serving.gateway import Gateway, GatewaySettings  # noqa: E402
from batchpilot.serving.gateway.engines import engines_of  # noqa: E402
from batchpilot.serving.gateway.upstream_metrics import read_upstream_metrics  # noqa: E402
from batchpilot.serving.session.session import TunerSession  # noqa: E402

STEPS = example()
LISTED = [
    {"id": "quick", "root": "/models/quick", "parent": None},
    {"id": "quick-too", "root": "/models/quick", "parent": None},
    {"id": "adapter", "root": "/adapters/a", "parent": "quick"},
    {"id": "slow", "root": "/models/slow", "parent": None},
]


class Router:
    """One address before two engines, as routers and proxies of several models are."""

    def __init__(self, quick, slow):
        self.apps = {"quick": STEPS.App(quick), "slow": STEPS.App(slow)}
        self.most = dict.fromkeys(self.apps, 0)
        self.most_together = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            tasks = [asyncio.ensure_future(app.engine.run()) for app in self.apps.values()]
            await send({"type": "lifespan.startup.complete"})
            await receive()
            for task in tasks:
                task.cancel()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["path"] == "/v1/models":
            await STEPS._whole(send, 200, json.dumps({"object": "list", "data": LISTED}).encode())
        elif scope["path"] == "/metrics":
            page = "".join(
                f'vllm:num_requests_running{{model_name="{name}"}} {len(app.engine.running)}\n'
                f'vllm:num_requests_waiting{{model_name="{name}"}} {len(app.engine.waiting)}\n'
                for name, app in self.apps.items()
            )
            await STEPS._whole(send, 200, page.encode(), b"text/plain")
        else:
            await self._complete(scope, receive, send)

    async def _complete(self, scope, receive, send):
        message = await receive()
        name = engines_of({"data": LISTED})[json.loads(message["body"])["model"]]
        messages = [message]

        async def again():
            return messages.pop() if messages else await receive()

        serving = asyncio.ensure_future(self.apps[name](scope, again, send))
        await asyncio.sleep(0)
        there = {name: len(app.engine.running) + len(app.engine.waiting) for name, app in self.apps.items()}
        self.most[name] = max(self.most[name], there[name])
        self.most_together = max(self.most_together, sum(there.values()))
        await serving


@contextmanager
def two_engines(limits, *, one_engine=False, **settings):
    def session():
        return TunerSession(StaticTuner(limits), window_ms=50.0)

    router = Router(STEPS.StepEngine(STEPS.slower(0.1)), STEPS.StepEngine(STEPS.slower(2.0)))
    with ExitStack() as stack:
        upstream = stack.enter_context(serving(router))
        told = GatewaySettings(upstream, **{"poll_s": 0.05, **settings})
        gateway = stack.enter_context(serving(Gateway(session(), told, None if one_engine else session)))
        if not one_engine:
            wait_until(lambda: "engines" in status(gateway))
        yield router, gateway


def status(gateway):
    return httpx.get(f"{gateway}/gateway/status", trust_env=False).json()


async def asked(gateway, models, tokens=4):
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        body = {"prompt": "a prompt of some length", "max_tokens": tokens, "stream": True}
        sent = [client.post(f"{gateway}/v1/completions", json={**body, "model": model}) for model in models]
        return [answer.status_code for answer in await asyncio.gather(*sent)]


def test_each_engine_has_a_concurrency_of_its_own_and_an_adapter_shares_its_bases():
    with two_engines(Limits(3)) as (router, gateway):
        models = ["quick", "adapter", "quick-too", "slow"] * 5
        assert set(asyncio.run(asked(gateway, models))) == {200}
        assert router.most == {"quick": 3, "slow": 3}
        told = status(gateway)
    assert told["models"] == {"quick": "quick", "quick-too": "quick", "adapter": "quick", "slow": "slow"}
    assert {name: engine["ended"] for name, engine in told["engines"].items()} == {
        "quick": {"finished": 15},
        "slow": {"finished": 5},
    }


def test_models_of_one_engine_share_one_concurrency():
    with two_engines(Limits(3), one_engine=True) as (router, gateway):
        assert set(asyncio.run(asked(gateway, ["quick", "slow"] * 6))) == {200}
        assert router.most_together == 3
        assert "engines" not in status(gateway)


def test_each_engine_is_judged_by_its_own_estimate():
    with two_engines(Limits(64, ttft_guard=1.0)) as (_, gateway):
        engines, rounds = {}, 0
        while rounds < 2 or None in [engine["predicted_tpot_ms"] for engine in engines.values()]:
            asyncio.run(asked(gateway, ["quick", "slow"] * 4, tokens=8))
            engines, rounds = status(gateway)["engines"], rounds + 1
        assert engines["slow"]["predicted_tpot_ms"] > 5 * engines["quick"]["predicted_tpot_ms"]
        assert engines["slow"]["tpot_ms_p50"] > 5 * engines["quick"]["tpot_ms_p50"]
        page = httpx.get(f"{gateway}/metrics", trust_env=False).text
    assert f'batchpilot_gateway:requests_total{{engine="slow",outcome="finished"}} {4 * rounds}' in page
    assert 'batchpilot_gateway:limit{engine="quick",limit="batch_size"} 64' in page


def test_requests_that_came_another_way_take_places_of_their_engine_only():
    with two_engines(Limits(8)) as (router, gateway):
        slow = router.apps["slow"].engine
        for _ in range(5):
            slow.submit(STEPS.Request(10, 100_000))
        wait_until(lambda: status(gateway)["engines"]["slow"]["requests_of_others"] == 5)
        assert status(gateway)["engines"]["quick"]["requests_of_others"] == 0


def test_an_unlisted_model_goes_to_the_first_engine_and_has_the_models_listed_again():
    with two_engines(Limits(8)) as (router, gateway):
        LISTED.append({"id": "new", "root": "/models/new", "parent": None})
        try:
            router.apps["new"] = router.apps["quick"]
            router.most["new"] = 0
            assert asyncio.run(asked(gateway, ["new"])) == [200]
            wait_until(lambda: status(gateway)["engines"]["quick"]["ended"] == {"finished": 1})
            wait_until(lambda: "new" in status(gateway)["engines"])
        finally:
            LISTED.pop()


def test_recorded_steps_say_whose_they_are(tmp_path):
    path = tmp_path / "steps.csv"
    with two_engines(Limits(8), record=path) as (_, gateway):
        asyncio.run(asked(gateway, ["quick", "adapter", "slow"], tokens=12))
    quick, slow = (read_measurements(path, select={"model": name}).observations for name in ("quick", "slow"))
    assert slow.latency_ms.mean() > 5 * quick.latency_ms.mean()


@pytest.mark.parametrize(
    ("listing", "engines"),
    [
        ([{"id": "a"}, {"id": "b"}], {"a": "a", "b": "b"}),
        ([{"id": "lora", "root": "/x", "parent": "a"}, {"id": "a", "root": "/a"}], {"lora": "a", "a": "a"}),
        ([{"id": "l2", "parent": "l1"}, {"id": "l1", "parent": "a"}, {"id": "a"}], {"l2": "a", "l1": "a", "a": "a"}),
        (
            [{"id": "l", "parent": "alias"}, {"id": "a", "root": "r"}, {"id": "alias", "root": "r"}],
            {"l": "a", "a": "a", "alias": "a"},
        ),
        ([{"id": "l", "parent": "gone"}], {"l": "gone"}),
        ([{"id": ""}, {"id": 5}, 7, {}], {}),
        ("nonsense", {}),
    ],
)  # fmt: skip
def test_adapters_and_names_of_the_same_weights_share_an_engine(listing, engines):
    assert engines_of({"data": listing}) == engines


names = st.sampled_from(["a", "b", "c", "d"])
entries = st.fixed_dictionaries({"id": names}, optional={"parent": names | st.none() | st.integers(), "root": names})


@given(st.lists(entries, max_size=6))
def test_every_listed_model_has_an_engine_whatever_is_listed(listing):
    engines = engines_of({"data": listing})
    assert set(engines) == {entry["id"] for entry in listing}


def test_metrics_of_one_model_are_told_from_anothers():
    page = (
        'vllm:num_requests_running{engine="0",model_name="a"} 3\nvllm:num_requests_running{model_name="b"} 5\n'
        'vllm:kv_cache_usage_perc{model_name="a"} 0.5\n'
    )
    reading = read_upstream_metrics(page, {"a", "adapter"})
    assert (reading.running, reading.kv_used_fraction) == (3, 0.5)
    assert read_upstream_metrics(page).running == 8
    assert read_upstream_metrics("vllm:num_requests_running 3\n", {"a"}) is None

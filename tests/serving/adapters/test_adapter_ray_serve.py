"""The adapter in Ray Serve, on a cluster of this machine alone."""

import asyncio
import importlib
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve", exc_type=ImportError)

from batchpilot.core import Limits  # noqa: E402
from batchpilot.serving.adapters import ray_serve  # noqa: E402
from batchpilot.serving.adapters.versions import UnknownVersionError  # noqa: E402
from batchpilot.serving.session.session import TunerSession  # noqa: E402

ROOT = Path(__file__).parents[3]
HELPERS = ROOT / "tests" / "helpers"
EXAMPLES = ROOT / "examples"
POLICY = ROOT / "batchpilot/tuners/policy/shipped/limits.onnx"


@pytest.fixture(scope="module")
def cluster():
    """A cluster whose workers find the tests' modules and the examples."""
    path = ":".join(map(str, (HELPERS, EXAMPLES, Path(__file__).parent)))
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    serve.start(proxy_location="Disabled")
    yield
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(autouse=True)
def _no_application_is_left(request):
    """One that a failed test leaves would make the next ones fail."""
    yield
    if "cluster" in request.fixturenames:
        for name in serve.status().applications:
            serve.delete(name)


def broken_session():
    """A session whose tuner gives a batch size of 3 in its second window, and raises from then on."""
    from adapter_tuners import ScriptedTuner

    return TunerSession(ScriptedTuner(Limits(1), Limits(3), then_raises=True), window_ms=5.0)


@serve.deployment(max_ongoing_requests=64)
class Reciprocals:
    """One over the input, and the size of its batch."""

    # A wait that twelve calls outlast on no machine: a batch goes when it is full, however slowly calls arrive.
    @ray_serve.tuned_batch(broken_session, batch_wait_timeout_s=0.5)
    async def __call__(self, batch):
        await asyncio.sleep(0.005)
        return [(1 / value, len(batch)) for value in batch]

    def status(self):
        """Of the replica's session."""
        return type(self).__call__.session().status()


async def ask(handle, values):
    """Answers, or what was raised, to calls made together."""
    return await asyncio.gather(*(handle.remote(value) for value in values), return_exceptions=True)


def test_a_tuner_moves_the_batch_size_of_a_deployment(cluster, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("ray_serve_tuned")
    # So slow that larger batches pay on a busy machine too, where a call costs milliseconds.
    handle = serve.run(example.deployment(slower=4.0).bind(), name="example")
    sizes = []
    for _ in range(40):
        sizes += [size for _, size in asyncio.run(example.load(handle, 1.0, callers=48))]
        if max(sizes) > 8:
            break
    assert sizes[0] <= 8, "the probe starts at initial_batch_size"
    assert max(sizes) > 8
    status = handle.status.remote().result()
    assert status["odd_events"] == 0


def test_a_policy_file_is_imported_into_a_deployment(cluster, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("ray_serve_tuned")
    handle = serve.run(example.deployment("policy", path=str(POLICY)).bind(), name="policy")
    answers = 0
    for _ in range(20):
        answers += len(asyncio.run(example.load(handle, 1.0, callers=48)))
        status = handle.status.remote().result()
        if answers > 48 and status["windows"] > 1:
            break
    assert answers > 48
    assert status["tuner"] == "policy"
    assert status["windows"] > 1
    assert (status["tuner_errors"], status["odd_events"]) == (0, 0)


def test_a_tuner_that_raises_leaves_the_last_limits_and_the_callers_served(cluster):
    handle = serve.run(Reciprocals.bind(), name="broken")
    for _ in range(3):
        answers = asyncio.run(ask(handle, [2.0] * 12))
        assert [value for value, _ in answers] == [0.5] * 12
    assert max(size for _, size in answers) == 3
    status = handle.status.remote().result()
    assert status["tuner_errors"] > 0
    assert status["limits"]["batch_size"] == 3
    failed = asyncio.run(ask(handle, [0.0]))
    assert isinstance(failed[0], ZeroDivisionError)
    assert asyncio.run(ask(handle, [4.0]))[0][0] == 0.25
    status = handle.status.remote().result()
    assert (status["running"], status["waiting"], status["odd_events"]) == (0, 0, 0)


def test_an_unknown_version_is_refused_on_import(monkeypatch):
    monkeypatch.setattr(ray, "__version__", "3.1.0")
    with pytest.raises(UnknownVersionError, match=r"ray is '3\.1\.0'"):
        importlib.reload(ray_serve)

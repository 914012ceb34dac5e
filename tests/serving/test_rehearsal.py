"""A rehearsal leaves nothing to be compiled under load."""

import json
import subprocess
import sys

import pytest

from batchpilot.baselines.static import StaticTuner
from batchpilot.core import Limits
from batchpilot.serving import make_tuner, rehearse

COUNTING = """
import gc, itertools, json, random
from numba.core.dispatcher import Dispatcher

def signatures():
    kernels = [kernel for kernel in gc.get_objects() if isinstance(kernel, Dispatcher)]
    return sorted(f"{kernel.py_func.__qualname__}{signature}" for kernel in kernels for signature in kernel.signatures)
"""

DECISIONS = """
from batchpilot.serving import EngineFacts, TunerSession, make_tuner, rehearse

def serve(tuner, seed):
    draw, now, ids, present = random.Random(seed), [0.0], itertools.count(), []
    session = TunerSession(tuner, window_ms=500.0, clock=lambda: now[0], facts=EngineFacts(kv_capacity_tokens=50_000))
    for _ in range(300):
        while len(present) < draw.randint(0, 40):
            present.append(next(ids))
            session.on_arrival(present[-1], draw.randint(1, 900), ttft_target_ms=2000.0, tpot_target_ms=80.0)
        duration_ms = 5.0 + len(present) * draw.uniform(0.5, 1.5)
        now[0] += duration_ms / 1000.0
        for request in present:
            session.on_tokens(request)
            if draw.random() < 0.05:
                session.on_finish(request)
        present = [request for request in present if request in session._recorder.requests.running]
        session.on_step(max(len(present), 1), max(len(present), 1), 100 * len(present), duration_ms)
    assert session.status()["tuner_errors"] == 0

name = {name!r}
rehearse(make_tuner(name, track="guarded"))
before = signatures()
serve(make_tuner(name, track="guarded"), 0)
print(json.dumps([before, signatures()]))
"""

SERVER = """
import torch
from batchpilot.core import SLO
from batchpilot.engines.torch import ModelRunner
from batchpilot.serving.server.building import build_service
from batchpilot.serving.server.config import ServerConfig
from batchpilot.serving.server.text import load_text

torch.set_num_threads(1)
runner = ModelRunner("tiny-llama", kv_capacity_tokens=2048)
service = build_service(runner, load_text("tiny-llama"), ServerConfig("tiny", SLO()), tuner="hybrid")
before = signatures()
engine = service.engine._engine
engine.set_limits(service.session.limits())
ids = [engine.submit([1, 2, 3], 4) for _ in range(5)]
engine.step()
engine.cancel(ids[-1])
while not engine.idle:
    engine.step()
engine.close_window()
print(json.dumps([before, signatures()]))
"""


def signatures_around(script):
    """What was compiled or loaded before and after something, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", COUNTING + script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout.splitlines()[-1])
    return before, after


@pytest.mark.parametrize("name", ["guarded-adaptive", "model-based"])
def test_a_rehearsed_tuner_decides_without_compiling(name):
    before, after = signatures_around(DECISIONS.replace("{name!r}", repr(name)))
    assert before, "a tuner without kernels would prove nothing"
    assert after == before


def test_a_built_server_runs_its_first_requests_without_compiling():
    pytest.importorskip("torch")
    pytest.importorskip("fastapi")
    before, after = signatures_around(SERVER)
    assert before
    assert after == before


class Spoilt(StaticTuner):
    """Raises whatever it is told."""

    needs_details = True

    def tell(self, metrics):
        raise ValueError("no")


def test_a_tuner_that_raises_is_rehearsed_without_harm():
    tuner = Spoilt(Limits(4))
    rehearse(tuner)
    assert tuner.ask() == Limits(4)


def test_a_tuner_that_may_keep_what_it_hears_is_left_alone():
    tuner = make_tuner("dynamic")
    rehearse(tuner)
    assert tuner.status()["windows_heard"] == 0

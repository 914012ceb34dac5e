"""What a tuner loads and compiles when it first decides, done before anybody waits for it.

Compiling holds the interpreter lock for seconds, in whichever thread it runs; a server that met it under load would
stand still for as long. Times in ms, the clock in seconds.
"""

from __future__ import annotations

import itertools

from batchpilot.core import Tuner
from batchpilot.serving.session.engine import EngineFacts
from batchpilot.serving.session.session import TunerSession

_WINDOWS = 4
_STEPS = 60
_PATIENCE_S = 600.0
"""Compiling takes longer than a tuner is waited for under load, and is what a rehearsal is for."""
_FACTS = EngineFacts(kv_capacity_tokens=16_384)


def rehearse(tuner: Tuner) -> None:
    """Lead a tuner through a few windows of made-up load, so that all its code is compiled and loaded.

    It is spoilt by it: give it a tuner of the same kind as the one that will decide, and throw it away. One that
    studies no details has nothing to compile and is left alone: it may write down what it hears, into a kept study.

        rehearse(make_tuner("model-based"))
        session = TunerSession(make_tuner("model-based"))

    Args:
        tuner: any; what it raises is its own affair, and will be contained when it decides.
    """
    if not getattr(tuner, "needs_details", False):
        return
    now_s = 0.0
    session = TunerSession(tuner, window_ms=1000.0, clock=lambda: now_s, facts=_FACTS, longest_tell_s=_PATIENCE_S)
    ids = itertools.count()
    present: list[int] = []
    for step in range(_WINDOWS * _STEPS):
        # Steps of every size, slower than anybody would guess, so that an estimate of them has much to learn.
        prompt_tokens, most = 32 + 16 * (step % 7), 2 + step % 30
        new = [next(ids) for _ in range(max(most - len(present), 0))]
        for request in new:
            session.on_arrival(request, prompt_tokens, ttft_target_ms=600.0, tpot_target_ms=40.0)
        present += new
        duration_ms = 10.0 + 2.0 * len(present) + len(new)
        now_s += max(duration_ms / 1000.0, 1.0 / _STEPS)
        for request in present:
            session.on_tokens(request)
        for request in present[most:]:
            session.on_finish(request)
        del present[most:]
        session.on_arrival(next(ids), prompt_tokens, ttft_target_ms=600.0, tpot_target_ms=40.0)
        tokens = len(present) + prompt_tokens * len(new)
        session.on_step(max(len(present), 1), tokens, 100 * len(present), duration_ms)
    session.close()

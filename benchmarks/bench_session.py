"""What a session costs a server: events, windows and the tuner's decisions, as a share of simulated step time.

Run it: `python benchmarks/bench_session.py`. Each row plays decode steps of 20 ms with so many requests, every one of
which emits a token a step and is replaced when it has said 100.
"""

import time

from batchpilot.serving import EngineFacts, TunerSession, make_tuner

STEP_MS = 20.0
STEPS = 3000
FACTS = EngineFacts(200_000, estimate=(20.0, 0.12, 0.005, 0.0, 1.0, 10.0, 0.02, 0.0, 1e-4))


def play(tuner, requests):
    """Wall time of the session's part of a step, in microseconds."""
    now_ms = 0.0
    session = TunerSession(make_tuner(tuner), clock=lambda: now_ms / 1000.0, facts=FACTS)
    said = {}
    entered = 0
    started = time.perf_counter()
    for _ in range(STEPS):
        while len(said) < requests:
            entered += 1
            said[entered] = 0
            session.on_arrival(entered, 200, ttft_target_ms=2000.0, tpot_target_ms=100.0)
        now_ms += STEP_MS
        session.on_step_tokens(said)
        for request in list(said):
            said[request] += 1
            if said[request] == 100:
                del said[request]
                session.on_finish(request)
        session.limits()
        session.on_step(requests, requests, 250 * requests, STEP_MS, kv_used_fraction=0.1)
    return 1e6 * (time.perf_counter() - started) / STEPS


def main():
    print(f"{'tuner':18} {'requests':>8} {'us a step':>10} {'share of 20 ms':>15}")
    for tuner in ("static-32", "hybrid", "aimd", "guarded-default"):
        for requests in (8, 32, 128):
            cost_us = min(play(tuner, requests) for _ in range(3))
            print(f"{tuner:18} {requests:8} {cost_us:10.1f} {cost_us / (1000.0 * STEP_MS):15.2%}")


if __name__ == "__main__":
    main()

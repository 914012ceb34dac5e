"""Threads: predictions are always those of one published set of parameters, and background updates lose nothing."""

import threading

import numpy as np
from latency_streams import BASE, THROTTLED, feed, mean_error, rows_of

from batchpilot.latency import step_ms
from batchpilot.latency.online import AdaptiveLatency, BackgroundUpdates, Triggers, UpdateRule

STEP = (8.0, 40.0, 5000.0)


class Alternating(UpdateRule):
    """Proposes parameters of which no mixture predicts as either does, and whatever is in force is worse."""

    name = "alternating"

    def __init__(self):
        self.proposals = 0

    def propose(self, current, base, history, since):
        self.proposals += 1
        factor = 2.0 if self.proposals % 2 else 0.5
        return BASE.scaled(factor * (1 + 1e-3 * self.proposals)).as_array()


def test_every_prediction_is_that_of_one_published_set_of_parameters():
    adaptive = AdaptiveLatency(BASE, rule=Alternating(), triggers=Triggers(10, 10, interval=10, held_out=8))
    published, predicted, done = {step_ms(BASE.as_array(), *STEP)}, set(), threading.Event()

    def read():
        while not done.is_set():
            predicted.add(adaptive.predict(*STEP))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for swap in range(400):
            # Each block of observations takes the side of the next proposal, so that every proposal is accepted.
            truth = BASE.scaled(0.5 if swap % 2 else 2.0)
            for row in rows_of(truth, 10, swap).tolist():
                adaptive.record(*row)
            adaptive.update()
            published.add(step_ms(adaptive.adapted.as_array(), *STEP))
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert adaptive.status()["updates_accepted"] > 300
    assert predicted <= published
    assert len(predicted) > 1


def test_recording_from_threads_while_updating_keeps_every_observation():
    adaptive = AdaptiveLatency(BASE)
    blocks = [rows_of(BASE, 1000, seed).tolist() for seed in range(4)]

    def record(block):
        for row in block:
            adaptive.record(*row)

    with BackgroundUpdates(adaptive):
        threads = [threading.Thread(target=record, args=(block,)) for block in blocks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    status = adaptive.status()
    assert (status["observations"], status["dropped"]) == (4000, 0)
    assert status["updates_accepted"] + status["updates_worse"] > 0
    assert status["updates_failed"] == 0


def test_background_updates_follow_a_throttled_engine_and_end_with_their_context():
    adaptive = AdaptiveLatency(BASE)
    before = threading.active_count()
    with BackgroundUpdates(adaptive):
        for row in rows_of(THROTTLED, 600).tolist():
            adaptive.record(*row)
    assert threading.active_count() == before
    assert mean_error(adaptive.parameters, THROTTLED) < 0.1
    count = adaptive.status()["updates_accepted"]
    for row in rows_of(THROTTLED, 200, 1).tolist():
        adaptive.record(*row)
    assert adaptive.status()["updates_accepted"] == count


def test_updates_called_from_threads_come_one_at_a_time():
    adaptive = AdaptiveLatency(BASE)
    for row in rows_of(THROTTLED, 200).tolist():
        adaptive.record(*row)
    results, start = [], threading.Barrier(4)

    def update():
        start.wait()
        results.append(adaptive.update())

    threads = [threading.Thread(target=update) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    accepted = [update for update in results if update is not None and update.outcome == "accepted"]
    assert adaptive.status()["version"] == len(accepted) == 1
    assert np.isfinite(adaptive.predict(*STEP))


def test_the_owner_may_update_while_the_background_does():
    adaptive = AdaptiveLatency(BASE)
    with BackgroundUpdates(adaptive):
        feed(adaptive, rows_of(THROTTLED, 400))
    assert mean_error(adaptive.parameters, THROTTLED) < 0.1

"""Score curves that drive the probe tuner, and where it goes on them."""

CURVE = {
    1: 0.2,
    2: 0.35,
    4: 0.5,
    8: 0.6,
    16: 0.7,
    32: 0.75,
    64: 0.55,
    48: 0.70,
    40: 0.73,
    44: 0.71,
    42: 0.72,
    43: 0.715,
}
CURVE |= {34: 0.745, 30: 0.74}
PROBE = [8, 16, 32, 64, 48, 40, 44, 42, 43]
LIGHT = {"batch_size_mean": 0.5, "running": 0, "queue": 0, "oldest_wait_ms": 0.0}


def capped(score_at_best: float = 0.8, best: int = 32):
    """A curve with one peak, 1 % lower for every size away from it, but never below half."""
    return lambda size: max(score_at_best - 0.01 * abs(size - best), score_at_best / 2)


def stable_drive(drive, **keys):
    """A dynamic tuner running stably at 32, where the score is 0.8."""
    driven = drive(capped(), **keys)
    driven.until_stable()
    assert driven.size == 32
    return driven

"""What a server tells its live page, made up for tests, in the shape of the real one (test_live_page.py compares)."""

import math

from batchpilot.core import Limits, WindowMetrics
from batchpilot.serving.server.history import History

LIMITS = Limits(32, token_budget=2048, step_target_ms=14.142135623730951, ttft_guard=1.0, discipline="spf")


def window(end_ms, **changes):
    """A window of a second in which 20 requests were served within their SLO, but for the changes."""
    values = {
        "limits": LIMITS,
        "start_ms": end_ms - 1000.0,
        "duration_ms": 1000.0,
        "arrivals": 20,
        "completions": 20,
        "running": 7,
        "ttft_ms_p50": 120.0,
        "ttft_ms_p95": 312.0,
        "tpot_ms_p50": 21.0,
        "tpot_ms_p95": 24.0,
        "ttft_target_ms": 400.0,
        "tpot_target_ms": 40.0,
        "slo_attainment": 1.0,
        "generated_tokens": 900,
        "goodput_tokens_per_s": 890.0,
        "kv_used_fraction": 0.2,
        "utilisation": 0.8,
    }
    return WindowMetrics(**(values | changes))


def quiet(end_ms):
    """A window in which nothing happened."""
    return WindowMetrics(limits=LIMITS, start_ms=end_ms - 1000.0, duration_ms=1000.0)


def live_answer(
    windows=None,
    *,
    engine=None,
    status=None,
    decisions=True,
    started=1_700_000_000,
    trial=None,
    shadow=False,
    draining=False,
    trouble=None,
):
    """An answer of `/api/live` as plain data."""
    told = [window(1000.0 * k) for k in range(1, 31)] if windows is None else windows
    history = History()
    for each in told:
        history.add(each)
    now_ms = told[-1].end_ms + 300.0 if told else 2000.0
    before = LIMITS.replace(batch_size=16, step_target_ms=20.0)
    change = {
        "at_ms": now_ms - 12_000.0,
        "age_s": 12.0,
        "before": before.to_dict(),
        "after": LIMITS.to_dict(),
        "reason": "probing 32: growing",
    }
    advice = {
        "tuner": "aimd",
        "advice": Limits(48).to_dict(),
        "windows": 40,
        "agreement": 0.25,
        "batch_size_ratio": 1.5,
        "errors": 0,
        "last_error": None,
    }
    answer = {
        "model": "tiny-llama",
        "started": started,
        "draining": draining,
        "trouble": trouble,
        "slo": {"ttft_target_ms": 2000.0, "tpot_target_ms": None},
        "now_ms": now_ms,
        "engine": {"running": 7, "waiting": 0, "queued_tokens": 0, "kv_used_fraction": 0.21, "stalled_s": 0.02}
        | (engine or {}),
        "status": {
            "tuner": "hybrid",
            "enabled": True,
            "phase": "STABLE_RUNNING",
            "reason": "the load does not fill size 32: step_target_ms=11.399999999999999",
            "track": "guarded",
            "best_batch_size": 32,
            "best_score": 0.453,
            "limits": LIMITS.to_dict(),
            "limit_changes": 3,
            "windows": len(told),
            "windows_untold": 0,
            "window_ms": 1000.0,
            "tell_ms": 0.08,
            "tuner_errors": 0,
            "tuner_last_error": None,
            "gpu_model": "AMD EPYC",
            "trial": trial,
            "shadow": advice if shadow else None,
        }
        | (status or {}),
        "windows": history.rows(),
        "decisions": [change] if decisions else [],
    }
    return _plain(answer)


def trial(**changes):
    """A trial that is running."""
    side = {"windows": 12, "ended": 140, "slo_attainment": 0.985, "failures": 0}
    told = {"candidate": "policy-limits", "share": 0.1, "verdict": "running", "reason": "the trial has begun"}
    return told | {"promote_after": 30, "new": side, "old": side | {"windows": 108, "ended": 1311}} | changes


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

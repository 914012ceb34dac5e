"""Short scenarios that differ in everything the environments must cope with side by side."""

from batchpilot.configs import Scenario

CHAT = {
    "kind": "lognormal",
    "prompt_tokens": {"median": 300, "sigma": 0.8},
    "output_tokens": {"median": 60, "sigma": 0.6},
}


def short(name, *, seconds=6, arrivals=None, family="stationary", workload=None, **rest):
    phases = [{"duration_s": seconds, "arrivals": arrivals or {"kind": "poisson", "load": 1.2}, "lengths": CHAT}]
    common = {"description": "A test.", "family": family, "device": "A100-80GB", "model": "Llama-3-8B"}
    return Scenario.model_validate({"name": name, "workload": workload or {"phases": phases}} | common | rest)


SHORT = {
    "chat": short("chat"),
    "few": short("few", arrivals={"kind": "poisson", "rate_per_s": 0.2}),
    "quiet": short("quiet", engine={"noise": 0.0}),
    "drifting": short(
        "drifting",
        engine={
            "drift": [
                {"kind": "throttle", "start_s": 2, "end_s": 4, "factor": 2.0},
                {"kind": "model_switch", "start_s": 5, "model": "Llama-2-7B"},
            ]
        },
    ),
    "t4": short("t4", device="T4", model="Qwen3-0.6B", decision_interval_ms=250),
    "unpromised": short("unpromised", slos={"interactive": {"ttft_ms": 500, "tpot_ms": float("inf")}}),
    "static": short("static", engine={"mode": "static"}),
    "closed": short(
        "closed",
        family="closed-loop",
        workload={"closed_loop": {"concurrency": 4, "requests": 12, "lengths": CHAT, "output_tokens": 20}},
    ),
}

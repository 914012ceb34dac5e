"""What the rules read off a server's figures is what widening each limit in simulation shows."""

import math
from collections import Counter
from itertools import product

import pytest
from bound_servers import served

from batchpilot.core.limits import Limits
from batchpilot.diagnosis.evidence import Evidence
from batchpilot.diagnosis.relaxing import evidence_of, faster, relax
from batchpilot.diagnosis.rules import BANDWIDTH, BATCH, COMPUTE, KV, NOTHING, QUEUE, TOKENS, diagnose

WIDE = Limits(512, 8192)

CASES = {
    "half loaded": (("H100-80GB", "Llama-3.1-8B", 500, 300, 0.3), {}, WIDE, NOTHING),
    "few slots": (("H100-80GB", "Llama-3.1-8B", 500, 300, 0.8), {}, Limits(16, 2048), BATCH),
    "small steps": (("H100-80GB", "Llama-3.1-8B", 3000, 30, 0.8), {}, Limits(256, 256), TOKENS),
    "little cache": (("A100-80GB", "Llama-3.1-8B", 500, 300, 0.8), {"kv": 30_000}, Limits(256, 2048), KV),
    "short queue": (("A100-80GB", "Llama-3.1-8B", 2000, 30, 0.5), {}, Limits(256, 2048, 4000), QUEUE),
    "long prompts": (("A100-80GB", "Llama-3.1-8B", 3000, 30, 1.2), {}, Limits(512, 8192), COMPUTE),
    "a tight promise": (("L40S", "Llama-3.1-8B", 150, 200, 0.3), {"tpot_ms": 22.0}, Limits(256, 2048), BANDWIDTH),
}


@pytest.mark.parametrize(("where", "how", "limits", "binds"), CASES.values(), ids=CASES)
def test_each_limit_is_named_where_it_binds(where, how, limits, binds):
    config, requests, hardware = served(*where, **how)
    worth = relax(config, requests, limits)
    verdict = diagnose(evidence_of(worth.result, hardware))
    assert (worth.binds, verdict.binds) == (binds, binds)
    assert verdict.change
    assert all(value == value for value in verdict.evidence.values())


def test_rules_agree_with_simulation_over_devices_loads_and_limits():
    found, useful = Counter(), Counter()
    machines = (("H100-80GB", "Llama-3.1-8B"), ("A100-40GB", "Llama-3.1-8B"), ("T4", "Qwen3-0.6B"))
    settings = ((Limits(256, 2048), None), (Limits(16, 2048), None), (Limits(256, 256), None), (WIDE, None))
    settings += ((Limits(256, 2048), 30_000), (Limits(256, 2048, 6000), None))
    for machine, lengths, load, (limits, kv) in product(machines, ((500, 300), (3000, 30)), (0.3, 0.8, 1.2), settings):
        config, requests, hardware = served(*machine, *lengths, load, kv=kv)
        worth = relax(config, requests, limits)
        told = diagnose(evidence_of(worth.result, hardware)).binds
        found[worth.binds, told] += 1
        if NOTHING not in (worth.binds, told):
            saved = {name: math.log(worth.lateness / late) for name, late in worth.wider.items()}
            useful[saved[told] >= 0.3 * max(saved.values())] += 1
    agreed = sum(count for (true, told), count in found.items() if true == told)
    assert agreed >= 0.8 * found.total(), found
    assert {true for true, _ in found} >= {NOTHING, BATCH, TOKENS, KV, COMPUTE}
    assert useful[True] >= 0.85 * useful.total(), useful


def test_a_device_twice_as_fast_in_both_takes_half_the_time_beside_its_fixed_costs():
    config, _, _ = served("A100-80GB", "Llama-3.1-8B", 500, 300, 0.5)
    latency = config.latency
    twice = faster(latency, compute=2.0, bandwidth=2.0)
    steps = [(64, 64, 60_000), (8, 4096, 20_000), (1, 1, 10)]
    for step in steps:
        fixed_ms = latency.tau_0 + latency.tau_b * step[0] + latency.tau_s * step[1]
        saved = (float(latency.predict(*step)) - fixed_ms) / (float(twice.predict(*step)) - fixed_ms)
        assert saved == pytest.approx(2.0)


def test_nothing_to_judge_is_an_error():
    with pytest.raises(ValueError, match="no interval"):
        diagnose(Evidence(source="nobody", intervals=[]))

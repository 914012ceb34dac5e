"""The symptoms that the deployment document names, each with the cause that its figures show."""

from dataclasses import replace

import numpy as np
import pytest
from bound_servers import served

from batchpilot.core.limits import Limits
from batchpilot.diagnosis.evidence import Evidence, Interval
from batchpilot.diagnosis.relaxing import evidence_of
from batchpilot.diagnosis.symptoms import symptoms, targets
from batchpilot.engines import simulate
from batchpilot.workloads import RequestTable


def found(evidence):
    return {one.name: one.cause for one in symptoms(evidence)}


def ran(where, limits, **how):
    config, requests, hardware = served(*where, **how)
    told = simulate(
        requests, config.latency, limits, memory=config.memory, kv_capacity_tokens=config.kv_capacity_tokens
    )
    return evidence_of(told, hardware)


def test_an_idle_device_is_starved_and_one_with_few_slots_has_small_batches():
    where = ("H100-80GB", "Llama-3.1-8B", 500, 300)
    assert found(ran((*where, 0.02), Limits(256, 8192)))["low utilisation"].startswith("input starved")
    assert found(ran((*where, 0.8), Limits(4, 8192)))["low utilisation"].startswith("batches too small")
    assert "low utilisation" not in found(ran(("A100-80GB", "Llama-3.1-8B", 3000, 30, 0.8), Limits(256, 8192)))


def test_a_long_tail_is_of_giant_prompts_or_of_contention():
    config, requests, hardware = served("A100-80GB", "Llama-3.1-8B", 200, 50, 0.2)
    prompts = np.array(requests.prompt_tokens)
    prompts[::40] = 30_000
    giants = RequestTable.from_arrays(requests.arrival_ms, prompts, requests.output_tokens)
    told = simulate(giants, config.latency, Limits(256, 8192), memory=config.memory)
    assert found(evidence_of(told, hardware))["P99 far above P50"] == "giant prompts"
    crowd = np.array(requests.arrival_ms)
    crowd[-len(crowd) // 10 :] = crowd[-1]  # the last tenth comes at once
    burst = RequestTable.from_arrays(crowd, requests.prompt_tokens, requests.output_tokens)
    told = simulate(burst, config.latency, Limits(16, 8192), memory=config.memory)
    assert found(evidence_of(told, hardware))["P99 far above P50"].startswith("contention")


def test_memory_runs_out_for_giant_inputs_for_crowds_or_by_a_leak():
    crowded = ran(("A100-80GB", "Llama-3.1-8B", 500, 300, 0.8), Limits(256, 2048), kv=20_000)
    assert found(crowded)["out of memory now and then"].startswith("too many requests")
    giants = replace(crowded, quantiles={**crowded.quantiles, "prompt_tokens": {50: 200.0, 99: 9000.0}})
    assert found(giants)["out of memory now and then"] == "giant inputs"
    leaking = Evidence(
        source="a server",
        intervals=[Interval(seconds=1.0, running=8, waiting=0.0, memory_mb=1000.0 + 40 * k) for k in range(20)],
    )
    assert found(leaking)["out of memory now and then"].startswith("a leak")
    assert {one.name: one.kept for one in targets(leaking)}["no leak (last over first quarter)"] is False
    busier = replace(leaking, intervals=[replace(one, running=4.0 + k) for k, one in enumerate(leaking.intervals)])
    assert "out of memory now and then" not in found(busier)


@pytest.mark.parametrize(
    ("ended", "late_ms", "cause"),
    [
        ({"stop": 90, "aborted": 10}, 9000.0, "time-outs"),
        ({"stop": 90, "aborted": 10}, 100.0, "clients leave"),
        ({"stop": 90, "failed": 10}, 100.0, "silent failures"),
    ],
)
def test_answers_cut_short_are_time_outs_or_silent_failures(ended, late_ms, cause):
    told = Evidence(source="a server", intervals=[Interval()], ended=ended, quantiles={"ttft_ms": {95: late_ms}})
    assert found(told)["answers cut short"].startswith(cause)
    assert "answers cut short" not in found(replace(told, ended={"stop": 1000, "aborted": 1}))


def test_targets_hold_a_run_against_use_and_errors():
    kept = {one.name: one.kept for one in targets(ran(("H100-80GB", "Llama-3.1-8B", 500, 300, 0.8), Limits(256, 8192)))}
    assert kept["utilisation above 80 %"] is True
    assert kept["errors below 0.1 %"] is True
    failing = Evidence(source="a server", intervals=[Interval(ended=100, failed=1)])
    assert {one.name: one.kept for one in targets(failing)}["errors below 0.1 %"] is False

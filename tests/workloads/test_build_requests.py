from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from batchpilot.configs.catalogue import model
from batchpilot.configs.scenario import scenario, scenario_names
from batchpilot.configs.workload_spec import Workload
from batchpilot.core import SLO_CLASSES
from batchpilot.workloads import build_requests
from batchpilot.workloads.conversations import new_tokens

FIXED = {"kind": "fixed", "prompt_tokens": 100, "output_tokens": 20}


def build(workload, seed=0, capacity_per_s=lambda prompt, output: 10.0, **rest):
    spec = Workload.model_validate(workload)
    return build_requests(spec, SLO_CLASSES, np.random.default_rng(seed), capacity_per_s, **rest)


def phase(duration_s=100, lengths=FIXED, arrivals=None, **rest):
    arrivals = arrivals or {"kind": "poisson", "rate_per_s": 10.0}
    return {"duration_s": duration_s, "arrivals": arrivals, "lengths": lengths} | rest


def columns(table):
    return (
        table.arrival_ms,
        table.prompt_tokens,
        table.output_tokens,
        table.estimated_output_tokens,
        table.slo_class,
        table.user,
        table.priority,
    )


@pytest.mark.parametrize("name", ["quick-shift", "diurnal-a100", "slo-shift-h100", "closed-loop-16"])
def test_same_seed_same_table_and_another_seed_another(name):
    spec = scenario(name)

    def draw(seed):
        return build_requests(spec.workload, spec.slo_classes(), np.random.default_rng(seed), lambda *_: 5.0)

    assert all(np.array_equal(one, two) for one, two in zip(columns(draw(1)), columns(draw(1)), strict=True))
    assert not np.array_equal(draw(1).prompt_tokens, draw(2).prompt_tokens)


@pytest.mark.parametrize("name", [name for name in scenario_names() if not scenario(name).needs_trace])
def test_every_catalogued_request_fits_its_models(name):
    spec = scenario(name)
    table = build_requests(spec.workload, spec.slo_classes(), np.random.default_rng(0), lambda *_: 20.0)
    served = [spec.model, *(drift.model for drift in spec.engine.drift if drift.kind == "model_switch")]
    assert (table.prompt_tokens + table.output_tokens).max() <= min(model(one).max_model_len for one in served)


def test_phases_follow_each_other_and_change_rate_and_lengths_where_they_should():
    long = {"kind": "fixed", "prompt_tokens": 4000, "output_tokens": 5}
    slow = {"kind": "poisson", "rate_per_s": 2.0}
    table = build({"phases": [phase(100), phase(300, long, slow), phase(50)]})
    boundaries = np.searchsorted(table.arrival_ms, [0, 100_000, 400_000, 450_000])
    assert np.diff(boundaries) / [100, 300, 50] == pytest.approx([10.0, 2.0, 10.0], rel=0.25)
    assert boundaries[-1] == len(table)
    for start, end, prompt in zip(boundaries, boundaries[1:], (100, 4000, 100), strict=False):
        assert set(table.prompt_tokens[start:end]) == {prompt}


def test_load_is_a_multiple_of_the_capacity_for_the_lengths_of_the_phase():
    asked = []

    def capacity_per_s(prompt, output):
        asked.append((prompt, output))
        return 40.0

    table = build({"phases": [phase(arrivals={"kind": "poisson", "load": 0.5})]}, capacity_per_s=capacity_per_s)
    assert asked == [(100.0, 20.0)]
    assert len(table) == pytest.approx(0.5 * 40.0 * 100, rel=0.1)


@pytest.mark.parametrize(
    "arrivals",
    [
        {"kind": "poisson", "rate_per_s": 20.0},
        {"kind": "gamma", "rate_per_s": 20.0, "cv": 2.0},
        {"kind": "mmpp", "rate_per_s": 20.0, "states": [{"factor": f, "mean_dwell_s": 2.0} for f in (0.5, 1.5)]},
        {"kind": "diurnal", "rate_per_s": 20.0, "amplitude": 0.5, "period_s": 100.0},
    ],
    ids=lambda arrivals: arrivals["kind"],
)
def test_every_kind_of_arrivals_brings_the_rate_it_states(arrivals):
    table = build({"phases": [phase(1000, arrivals=arrivals)]})
    assert len(table) / 1000 == pytest.approx(20.0, rel=0.1)


@pytest.mark.parametrize(
    ("lengths", "prompt", "output"),
    [
        (FIXED, (100, 100), (20, 20)),
        (
            {"kind": "uniform", "prompt_tokens": {"min": 5, "max": 9}, "output_tokens": {"min": 1, "max": 2}},
            (5, 9),
            (1, 2),
        ),
        (
            {
                "kind": "lognormal",
                "prompt_tokens": {"median": 300, "sigma": 2.0, "min": 64, "max": 512},
                "output_tokens": {"median": 20, "sigma": 3.0, "max": 64},
            },
            (64, 512),
            (1, 64),
        ),
        ({"kind": "azure-conv", "max_prompt_tokens": 2000, "max_output_tokens": 300}, (2, 2000), (7, 300)),
        ({"kind": "azure-code"}, (3, 7437), (6, 1899)),
    ],
    ids=["fixed", "uniform", "lognormal", "azure-conv", "azure-code"],
)
def test_every_kind_of_lengths_stays_within_what_it_states(lengths, prompt, output):
    table = build({"phases": [phase(300, lengths)]})
    for tokens, (low, high) in ((table.prompt_tokens, prompt), (table.output_tokens, output)):
        assert low <= tokens.min()
        assert tokens.max() <= high


def test_mixes_are_drawn_in_their_shares():
    senders = {
        "slo_mix": {"batch": 0.75, "realtime": 0.25},
        "users": 4,
        "priority_mix": {"high": 0.1, "low": 0.9},
    }
    table = build({"phases": [phase(500, **senders)]})
    assert [slo.name for slo in table.slos] == ["batch", "realtime"]
    assert np.bincount(table.slo_class) / len(table) == pytest.approx([0.75, 0.25], abs=0.03)
    assert np.bincount(table.priority) / len(table) == pytest.approx([0.1, 0.0, 0.9], abs=0.03)
    zipf = 1 / np.arange(1, 5)
    assert np.bincount(table.user) / len(table) == pytest.approx(zipf / zipf.sum(), abs=0.03)


def test_a_changing_slo_mix_keeps_one_list_of_classes():
    mixes = ({"batch": 1.0}, {"interactive": 0.5, "batch": 0.5})
    table = build({"phases": [phase(slo_mix=mix) for mix in mixes]})
    assert [slo.name for slo in table.slos] == ["batch", "interactive"]
    assert set(table.slo_class[table.arrival_ms < 100_000]) == {0}
    assert set(table.slo_class[table.arrival_ms >= 100_000]) == {0, 1}


def test_a_class_without_a_promise_is_refused():
    spec = Workload.model_validate({"phases": [phase(slo_mix={"instant": 1.0})]})
    with pytest.raises(ValueError, match="unknown SLO class 'instant'"):
        build_requests(spec, SLO_CLASSES, np.random.default_rng(0), lambda *_: 1.0)


def test_a_closed_loop_has_its_clients_requests_and_fixed_outputs():
    table = build(
        {"closed_loop": {"concurrency": 8, "requests": 72, "lengths": {"kind": "azure-conv"}, "output_tokens": 50}}
    )
    assert (table.concurrency, len(table)) == (8, 72)
    assert set(table.output_tokens) == {50}
    assert len(set(table.prompt_tokens)) > 20


LENGTH = {"median": 100, "sigma": 0.5, "max": 900}
TALK = {
    "duration_s": 200,
    "arrivals": {"kind": "poisson", "rate_per_s": 1.0},
    "requests": {"median": 3, "sigma": 0.5, "max": 8},
    "system_tokens": 256,
    "first_tokens": LENGTH,
    "message_tokens": LENGTH,
    "output_tokens": LENGTH,
    "think": {"median_s": 5, "sigma": 0.5, "max_s": 20},
}


def conversations_of(table):
    """Rows of each conversation, in order."""
    return [np.flatnonzero(table.turns.session == session) for session in np.unique(table.turns.session)]


def test_every_prompt_of_a_conversation_holds_all_that_was_said_before():
    table = build({"conversations": TALK})
    talks = conversations_of(table)
    assert len(talks) > 100
    for rows in talks:
        said = table.prompt_tokens[rows] + table.output_tokens[rows]
        assert np.all(table.prompt_tokens[rows][1:] > said[:-1])
        hashes = [table.prefixes.hashes[table.prefixes.starts[r] : table.prefixes.starts[r + 1]] for r in rows]
        assert [len(row) for row in hashes] == (said // 64).tolist()
        for before, after in pairwise(hashes):
            assert after[: len(before)].tolist() == before.tolist()


def test_conversations_share_their_system_prompt_and_nothing_else():
    table = build({"conversations": TALK})
    prefixes, (first, second) = table.prefixes, np.flatnonzero(table.turns.first())[:2]
    one, other = (set(prefixes.hashes[prefixes.starts[r] : prefixes.starts[r + 1]].tolist()) for r in (first, second))
    assert len(one & other) == 256 // 64


def test_who_asks_and_what_was_promised_stays_the_same_within_a_conversation():
    mixed = {"slo_mix": {"interactive": 0.5, "batch": 0.5}, "users": 4, "priority_mix": {"high": 0.5, "low": 0.5}}
    table = build({"conversations": TALK | mixed})
    assert len(set(table.slo_class)) == len(set(table.priority)) == 2
    for rows in conversations_of(table):
        assert len({(table.slo_class[r], table.user[r], table.priority[r]) for r in rows}) == 1


def test_agents_ask_again_behind_tools_until_the_context_is_full():
    agents = {
        "steps": {"median": 20, "sigma": 0.1, "max": 50},
        "tool_tokens": {"median": 300, "sigma": 0.1, "max": 900},
        "work": {"median_s": 0.5, "sigma": 0.1, "max_s": 1},
        "max_context_tokens": 4000,
    }
    table = build({"conversations": TALK | agents})
    assert (table.prompt_tokens + table.output_tokens).max() <= 4000
    assert np.mean(table.turns.think_ms[~table.turns.first()] <= 1000.0) > 0.8


def test_a_load_of_conversations_counts_what_is_new_in_their_turns():
    offered = []
    for load in (0.5, 1.0):
        by_load = TALK | {"arrivals": {"kind": "poisson", "load": load}, "duration_s": 2000}
        table = build({"conversations": by_load}, capacity_per_s=lambda prompt, output: 10_000.0 / (prompt + output))
        offered.append(float((new_tokens(table) + table.output_tokens).sum()) / 2000)
    assert offered[1] == pytest.approx(2 * offered[0], rel=0.1)
    assert offered[1] == pytest.approx(10_000.0, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": {"median": 1, "sigma": 1, "max": 9}}, "tool_tokens is missing"),
        ({"think": {"median_s": -1, "sigma": 1, "max_s": 9}}, "median_s"),
        ({"max_context_tokens": 0}, "max_context_tokens"),
    ],
)
def test_conversations_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Workload.model_validate({"conversations": TALK | changes})


def test_the_length_predictor_is_no_oracle_unless_told_so():
    workload = {"phases": [phase(lengths={"kind": "azure-conv"})]}
    noisy = build(workload)
    assert not np.array_equal(noisy.estimated_output_tokens, noisy.output_tokens)
    oracle = build(workload | {"length_estimate_sigma": 0.0})
    assert np.array_equal(oracle.estimated_output_tokens, oracle.output_tokens)


@pytest.fixture
def trace_file(tmp_path):
    path = tmp_path / "trace.csv"
    rows = "\n".join(f"{second},{100 + second},10" for second in range(60))
    path.write_text(f"arrived_at,num_prefill_tokens,num_decode_tokens\n{rows}\n")
    return str(path)


def test_a_trace_is_replayed_with_its_window_rate_and_mix(trace_file):
    trace = {"file": trace_file, "format": "vidur", "start_s": 10.0, "duration_s": 20.0, "rate": 2.0}
    table = build({"trace": trace | {"slo_mix": {"batch": 1.0}}})
    assert table.prompt_tokens.tolist() == list(range(110, 130))
    assert table.arrival_ms == pytest.approx(np.arange(20) * 500.0)
    assert [slo.name for slo in table.slos] == ["batch"]


def test_a_looped_trace_fills_the_scenario_and_any_trace_ends_with_it(trace_file):
    trace = {"file": trace_file, "format": "vidur"}
    assert len(build({"trace": trace | {"loop": True}}, duration_s=150.0)) == 150
    assert len(build({"trace": trace}, duration_s=150.0)) == 60
    assert len(build({"trace": trace}, duration_s=25.0)) == 25


def test_bad_rows_of_a_trace_are_counted_when_told_to(trace_file):
    path = Path(trace_file)
    path.write_text(path.read_text() + "nonsense\n")
    trace = {"file": trace_file, "format": "vidur"}
    with pytest.raises(ValueError, match="line 62"):
        build({"trace": trace})
    assert build({"trace": trace | {"skip_bad_rows": True}}).skipped_rows == 1


def test_columns_of_a_generic_trace_reach_the_reader(trace_file):
    columns = {"arrival_column": "arrived_at", "prompt_column": "num_prefill_tokens"}
    options = columns | {"output_column": "num_decode_tokens", "time_unit": "s"}
    assert len(build({"trace": {"file": trace_file, "format": "csv", "options": options}})) == 60


def test_a_trace_scenario_without_a_file_says_how_to_name_one():
    with pytest.raises(ValueError, match="--trace FILE"):
        build({"trace": {}})

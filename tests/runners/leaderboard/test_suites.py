"""What training, choosing and judging may not share: seeds, devices, and parts of a recorded trace."""

from itertools import combinations

import pytest

from batchpilot.configs.catalogue import device, model
from batchpilot.configs.recordings import recording_of, recordings, with_recording
from batchpilot.configs.scenario import scenario, suite
from batchpilot.configs.seeds import BLOCK, seeds_of, suite_seeds
from batchpilot.latency.model.registry import find_latency
from batchpilot.runners.chosen import first_seed, left_out_notes, scenarios_of

APART = ("train", "validation", "held-out")
KINDS = ("agents", "images", "speculation")
PAIRS = [
    *combinations(APART, 2),
    *(pair for kind in KINDS for pair in combinations((f"{kind}-{name}" for name in APART), 2)),
]


def segments(name: str) -> list[tuple[str, float, float]]:
    """(recording, start, end) in the trace's own seconds of every trace scenario of a suite."""
    found = []
    for one in suite(name):
        replay = one.workload.trace
        if replay is not None:
            assert replay.duration_s is not None, f"{one.name} replays to the end of its trace"
            found.append((recording_of(one), replay.start_s, replay.start_s + replay.duration_s))
    return found


@pytest.mark.parametrize(("first", "second"), [*PAIRS, ("quick", "train"), ("quick", "held-out")])
def test_suites_share_no_seed(first, second):
    assert not set(suite_seeds(first)[:: BLOCK // 100]) & set(suite_seeds(second)[:: BLOCK // 100])
    one, other = suite_seeds(first), suite_seeds(second)
    assert one.stop <= other.start or other.stop <= one.start


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_suites_share_no_device(first, second):
    assert not {one.device for one in suite(first)} & {one.device for one in suite(second)}


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_suites_share_no_part_of_a_trace(first, second):
    for recording, start, end in segments(first):
        for other, other_start, other_end in segments(second):
            assert recording != other or end <= other_start or other_end <= start


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_kind_of_request_is_judged_on_is_apart_from_all_that_is_trained_on(kind):
    for part in APART:
        devices = {one.device for one in suite(f"{kind}-{part}")}
        assert not devices & {one.device for other in APART if other != part for one in suite(other)}
        assert suite_seeds(f"{kind}-{part}") == suite_seeds(part)


def test_suites_of_a_kind_hold_what_they_are_called_after():
    for part in APART:
        assert all(one.workload.conversations for one in suite(f"agents-{part}"))
        assert all(one.workload.images and one.engine.vision for one in suite(f"images-{part}"))
        assert all(one.engine.speculation.drafted for one in suite(f"speculation-{part}"))
        assert {one.family for kind in KINDS for one in suite(f"{kind}-{part}")} == set(KINDS)


@pytest.mark.parametrize("name", APART)
def test_a_suite_holds_every_kind_of_load_and_both_traces(name):
    families = {one.family for one in suite(name)}
    assert families >= {
        "stationary", "bursty", "diurnal", "prompt-shift", "slo-shift", "drift", "overload", "trace",
    }  # fmt: skip
    assert any(drift.kind == "model_switch" for one in suite(name) for drift in one.engine.drift)
    assert {recording for recording, _, _ in segments(name)} == set(recordings())


def test_held_out_replays_the_second_halves_of_the_traces():
    halves = {"azure-conv": 1750.9, "azure-code": 1718.0}
    for name in APART:
        for recording, start, end in segments(name):
            assert start >= halves[recording] if name == "held-out" else end <= halves[recording]


def test_every_trace_scenario_says_which_trace_it_needs():
    needing = {one.name for name in APART for one in suite(name) if one.needs_trace}
    assert needing == {name for recording in recordings().values() for name in recording.scenarios}
    assert recording_of(scenario("trace-replay")) is None


def test_a_folder_gives_a_scenario_its_trace(tmp_path):
    one = scenario("held-trace-conv-h100")
    with pytest.raises(
        FileNotFoundError, match=r"held-trace-conv-h100 replays azure-conv, and there is no .*_conv\.csv"
    ):
        with_recording(one, tmp_path)
    path = tmp_path / "AzureLLMInferenceTrace_conv.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,10,4\n")
    found = with_recording(one, tmp_path)
    assert not found.needs_trace
    assert found.workload.trace.model_dump(exclude={"file"}) == one.workload.trace.model_dump(exclude={"file"})
    assert found.duration_s == one.duration_s
    assert with_recording(scenario("quick-chat"), tmp_path) is scenario("quick-chat")


def test_seeds_outside_a_block_are_refused():
    assert list(seeds_of("train", 3, 2)) == [BLOCK + 3, BLOCK + 4]
    for first, count in ((-1, 1), (0, 0), (BLOCK, 1), (BLOCK - 1, 2)):
        with pytest.raises(ValueError, match="a suite has the seeds 0 to 999999"):
            seeds_of("train", first, count)


@pytest.fixture
def traces(tmp_path):
    for recording in recordings().values():
        (tmp_path / recording.file).write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,10,4\n")
    return tmp_path


def test_the_prototype_has_24_settings_and_needs_both_traces(traces):
    settings = scenarios_of("prototype", None, traces)
    assert len({one.name for one in settings}) == 24
    assert len({(one.device, one.workload.trace.rate, one.slos["interactive"].ttft_ms) for one in settings}) == 24
    with pytest.raises(ValueError, match="name their folder"):
        scenarios_of("prototype", None, None)
    next(traces.iterdir()).unlink()
    with pytest.raises(FileNotFoundError, match="suite prototype replays azure-co"):
        scenarios_of("prototype", None, traces)


def test_a_suite_without_traces_says_what_it_left_out(traces):
    assert left_out_notes(scenarios_of("held-out", None, traces)) == []
    (note,) = left_out_notes(scenarios_of("held-out", None, None))
    assert note.startswith("Left out for want of --traces FOLDER: held-trace-conv-h100")
    assert left_out_notes(scenarios_of("quick", None, None)) == []


def test_seeds_are_counted_within_a_suite_and_taken_as_typed_for_single_scenarios():
    assert first_seed("held-out", 4, 3, whole_suite=True) == suite_seeds("held-out")[4]
    assert first_seed("quick", 4, 3, whole_suite=True) == 4
    assert first_seed("held-out", 4, 3, whole_suite=False) == 4


@pytest.mark.parametrize("name", ["quick", "standard"])
def test_quick_and_standard_stand_on_measured_entries(name):
    for one in suite(name):
        found = find_latency(device(one.device), model(one.model), one.tensor_parallel, one.dtype)
        assert found.provenance.startswith("measured: "), f"{one.name}: {found.provenance}"

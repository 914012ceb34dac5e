import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot.configs.errors import ConfigError
from batchpilot.configs.scenario import Scenario, load_scenario, scenario, scenario_names, suite, suites
from batchpilot.configs.workload_spec import Workload

GOOD = """\
name: mine
description: A test.
family: bursty
device: A100-80GB
model: Llama-3-8B
workload:
  phases:
    - duration_s: 60
      arrivals: {kind: gamma, load: 0.9, cv: 2.0}
      lengths: {kind: azure-conv}
    - duration_s: 30
      arrivals:
        kind: mmpp
        rate_per_s: 5
        states:
          - {factor: 1, mean_dwell_s: 10}
          - {factor: 3, mean_dwell_s: 5}
      lengths:
        kind: lognormal
        prompt_tokens: {median: 200, sigma: 0.5}
        output_tokens: {median: 50, sigma: 0.5}
      slo_mix: {gold: 0.5, interactive: 0.5}
slos:
  gold: {ttft_ms: 300, tpot_ms: .inf}
engine:
  drift:
    - {kind: throttle, start_s: 10, end_s: 20, factor: 1.5}
    - {kind: model_switch, start_s: 50, model: Llama-2-7B}
"""


@pytest.fixture
def write(tmp_path):
    def write_file(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write_file


def line_of(text, fragment):
    return next(number for number, line in enumerate(text.splitlines(), 1) if fragment in line)


def test_a_scenario_file_becomes_typed_data(write):
    mine = load_scenario(write(GOOD))
    assert mine.duration_s == 90.0
    assert mine.workload.phases[0].arrivals.cv == 2.0
    assert mine.workload.phases[1].arrivals.states[1].factor == 3
    assert mine.engine.drift[1].model == "Llama-2-7B"
    assert mine.engine.noise == 0.05
    assert mine.decision_interval_ms == 1000.0


def test_own_slo_classes_join_the_known_ones(write):
    classes = load_scenario(write(GOOD)).slo_classes()
    assert (classes["gold"].ttft_ms, classes["gold"].tpot_ms, classes["gold"].name) == (300.0, math.inf, "gold")
    assert classes["interactive"].ttft_ms == 2000.0


MISTAKES = {
    "unknown key": ("cv: 2.0}", "cvv: 2.0}", "unknown key 'cvv'; did you mean 'cv'"),
    "unknown key on top": ("device: A100", "devise: A100", "unknown key 'devise'; did you mean 'device'"),
    "unknown kind": (
        "kind: gamma",
        "kind: gama",
        "arrivals.kind is 'gama'; did you mean 'gamma'.*allowed: poisson, gamma",
    ),
    "unknown family": ("family: bursty", "family: burst", "family is 'burst'; did you mean 'bursty'.*closed-loop"),
    "text for a number": ("load: 0.9", "load: much", "load is 'much'; it must be a valid number"),
    "number too small": ("load: 0.9", "load: 0", "load is 0; it must be greater than 0"),
    "infinite rate": ("load: 0.9", "load: .inf", "load is inf; it must be a finite number"),
    "both rates": ("load: 0.9", "load: 0.9, rate_per_s: 3", "both of rate_per_s and load given; give exactly one"),
    "no rate": ("load: 0.9, cv", "cv", "neither of rate_per_s and load given; give exactly one"),
    "no kind": ("{kind: azure-conv}", "{max_prompt_tokens: 9}", "lengths.kind is missing"),
    "one state": ("          - {factor: 3, mean_dwell_s: 5}\n", "", "states is .*at least 2 items"),
    "shares": ("gold: 0.5", "gold: 0.4", r"shares of slo_mix sum to 0\.9; they must sum to 1"),
    "unknown class": ("{gold: 0.5", "{glod: 0.5", "unknown SLO class 'glod'; did you mean 'gold'"),
    "wrong duration": ("family:", "duration_s: 91\nfamily:", r"duration_s is 91, but the workload lasts 90 s"),
    "drift backwards": ("end_s: 20", "end_s: 5", r"end_s 5 is not after start_s 10"),
    "drift too late": ("start_s: 50", "start_s: 95", r"drift starts at 95 s, after the scenario's end at 90 s"),
    "lengths out of order": ("sigma: 0.5}", "sigma: 0.5, min: 9000}", "min 9000 is above max 8192"),
    "bad name": ("name: mine", "name: My Own", "name is 'My Own'; it must match"),
    "unknown device": ("A100-80GB", "A100-90GB", "device: unknown device 'A100-90GB'; did you mean 'A100-80GB'"),
    "unknown model": ("Llama-2-7B", "Llama-2-9B", "model: unknown model 'Llama-2-9B'; did you mean 'Llama-2"),
    "two sources": (
        "workload:\n",
        "workload:\n  trace: {}\n",
        "phases and trace of phases, conversations, closed_loop and trace given; give exactly one",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_file_line_and_what_is_allowed(write, mistake):
    old, new, message = MISTAKES[mistake]
    assert old in GOOD
    with pytest.raises(ConfigError, match=message) as caught:
        load_scenario(write(GOOD.replace(old, new, 1)))
    assert "mine.yaml, line " in str(caught.value)


@pytest.mark.parametrize("mistake", ["unknown key", "text for a number", "shares", "unknown class", "drift too late"])
def test_the_line_named_is_the_line_of_the_mistake(write, mistake):
    old, new, _ = MISTAKES[mistake]
    text = GOOD.replace(old, new, 1)
    with pytest.raises(ConfigError, match=rf"line {line_of(text, new)}\)"):
        load_scenario(write(text))


def test_a_missing_key_is_named(write):
    with pytest.raises(ConfigError, match="model is missing"):
        load_scenario(write(GOOD.replace("model: Llama-3-8B\n", "")))


def test_every_mistake_of_a_file_is_told_at_once(write):
    with pytest.raises(ConfigError) as caught:
        load_scenario(write(GOOD.replace("cv: 2.0", "cv: -1").replace("factor: 1.5", "factor: 0")))
    assert set(caught.value.problems) == {"workload.phases[0].arrivals.cv", "engine.drift[0].factor"}


def places(node, path=()):
    """Path of every value of nested mappings and lists."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), st.integers(), max_size=2),
)


@given(data=st.data())
@settings(max_examples=150)
def test_no_value_anywhere_raises_anything_but_a_config_error(tmp_path_factory, data):
    content = yaml.safe_load(GOOD)
    *path, last = data.draw(st.sampled_from(list(places(content))))
    parent = content
    for key in path:
        parent = parent[key]
    parent[last] = data.draw(odd_values)
    file = tmp_path_factory.getbasetemp() / "odd.yaml"
    file.write_text(yaml.safe_dump(content))
    try:
        loaded = load_scenario(file)
    except ConfigError:
        return
    assert Scenario.model_validate(loaded.model_dump()) == loaded


def test_all_states_silent_is_refused(write):
    with pytest.raises(ConfigError, match="nothing ever arrives"):
        load_scenario(write(GOOD.replace("factor: 1,", "factor: 0,").replace("factor: 3,", "factor: 0,")))


def test_a_workload_needs_a_source():
    with pytest.raises(ValueError, match="none of phases, conversations, closed_loop and trace given"):
        Workload()


def test_a_scenario_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        scenario("quick-chat").device = "T4"


def test_a_relative_trace_file_lies_beside_the_scenario(write):
    text = (
        "name: mine\ndescription: x\nfamily: trace\ndevice: T4\nmodel: Qwen3-0.6B\nworkload: {trace: {file: my.csv}}\n"
    )
    path = write(text)
    assert load_scenario(path).workload.trace.file == str(path.parent / "my.csv")


def test_a_looped_trace_needs_an_end(write):
    text = "name: mine\ndescription: x\nfamily: trace\ndevice: T4\nmodel: Qwen3-0.6B\nworkload: {trace: {loop: true}}\n"
    with pytest.raises(ConfigError, match="a looped trace never ends; give duration_s"):
        load_scenario(write(text))
    assert load_scenario(write(text + "duration_s: 60\n")).workload.trace.loop


def test_devices_and_models_take_the_catalogues_spelling(write):
    mine = load_scenario(write(GOOD.replace("A100-80GB", "a100 80gb").replace("Llama-3-8B", "llama-3-8b")))
    assert (mine.device, mine.model) == ("A100-80GB", "Llama-3-8B")


def test_any_scenario_can_replay_a_trace_instead():
    replayed = scenario("quick-chat").with_trace(file="my.csv", rate=1.5)
    assert (replayed.family, replayed.duration_s, replayed.device) == ("trace", None, "A100-80GB")
    assert (replayed.workload.trace.file, replayed.workload.trace.rate) == ("my.csv", 1.5)
    assert replayed.workload.phases is None


def test_changing_the_trace_keeps_its_other_fields_and_checks_the_new():
    replayed = scenario("trace-replay").with_trace(file="my.csv", format="burstgpt").with_trace(rate=2.0)
    assert (replayed.workload.trace.file, replayed.workload.trace.format) == ("my.csv", "burstgpt")
    assert not replayed.needs_trace
    with pytest.raises(ConfigError, match="unknown key 'rat'; did you mean 'rate'"):
        replayed.with_trace(rat=2.0)


@pytest.mark.parametrize("name", scenario_names())
def test_a_catalogued_scenario_is_called_like_its_file_and_survives_a_round_trip(name):
    one = scenario(name)
    assert one.name == name
    assert Scenario.model_validate(one.model_dump()) == one


def test_every_catalogued_scenario_is_in_a_suite_and_every_suite_loads():
    named = {member for members in suites().values() for member in members}
    assert named == set(scenario_names())
    for name, members in suites().items():
        assert [one.name for one in suite(name)] == members


def test_quick_is_short_and_standard_covers_every_family():
    quick, standard = suite("quick"), suite("standard")
    assert len(quick) >= 4
    assert all(one.duration_s == pytest.approx(120, rel=0.2) for one in quick)
    assert len(standard) >= 14
    assert {one.family for one in standard} >= {
        "stationary",
        "bursty",
        "diurnal",
        "prompt-shift",
        "slo-shift",
        "drift",
        "overload",
        "closed-loop",
        "trace",
    }
    assert [one.name for one in standard if one.needs_trace] == ["trace-replay"]


def test_unknown_scenarios_and_suites_are_answered_with_the_closest():
    with pytest.raises(ConfigError, match="unknown scenario 'quick-chatt'; did you mean 'quick-chat'"):
        scenario("quick-chatt")
    with pytest.raises(ConfigError, match="unknown suite 'quik'; did you mean 'quick'"):
        suite("quik")

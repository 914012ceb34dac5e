"""What the `dynamic_batch_tuner` section accepts, warns of and refuses."""

import copy
import math
import pickle
import warnings

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.configs import ConfigError, ConfigWarning, TunerConfig, load_tuner_config, preset, presets, to_yaml

TABLE = {
    "enabled": True, "strategy": "dynamic", "fixed_batch_size": 0, "min_batch_size": 1, "max_batch_size": 256,
    "initial_batch_size": 8, "max_probing_attempts": 10, "probing_growth_factor": 2.0, "probing_timeout_ms": 5000,
    "performance_threshold": 0.05, "growth_coefficient": 0.2, "decay_coefficient": 0.3, "oscillation_coefficient": 0.05,
    "adjustment_interval_ms": 100, "adjustment_factor": 0.3, "stabilization_cycles": 10,
    "batch_size_change_threshold": 0.10, "performance_fluctuation_threshold": 0.03, "memory_safety_margin_mb": 512,
    "memory_usage_limit": 0.90, "max_consecutive_failures": 3, "fallback_level": "moderate", "throughput_weight": 0.5,
    "gpu_utilization_weight": 0.3, "memory_efficiency_weight": 0.2, "min_acceptable_throughput": 10,
    "max_acceptable_latency_ms": 5000, "target_gpu_utilization": 0.80, "enable_oscillation": True,
    "enable_auto_recovery": True, "recovery_sensitivity": 0.5, "load_change_threshold": 0.30,
    "enable_debug_logging": False, "metrics_history_size": 100, "report_interval_sec": 10, "exploration_interval": 100,
}  # fmt: skip
"""Defaults of the dynamic batch tuner document's table."""

RANGES = {
    "min_batch_size": (1, 8), "max_batch_size": (64, 512), "initial_batch_size": (4, 16),
    "max_probing_attempts": (5, 20), "probing_growth_factor": (1.5, 3.0), "probing_timeout_ms": (3000, 10000),
    "performance_threshold": (0.01, 0.20), "growth_coefficient": (0.1, 0.5), "decay_coefficient": (0.2, 0.5),
    "oscillation_coefficient": (0.01, 0.10), "adjustment_interval_ms": (50, 500), "stabilization_cycles": (5, 20),
    "batch_size_change_threshold": (0.05, 0.20), "performance_fluctuation_threshold": (0.01, 0.10),
    "memory_safety_margin_mb": (256, 2048), "memory_usage_limit": (0.70, 0.95), "max_consecutive_failures": (2, 5),
    "throughput_weight": (0.3, 0.7), "gpu_utilization_weight": (0.2, 0.5), "memory_efficiency_weight": (0.1, 0.3),
    "target_gpu_utilization": (0.60, 0.95), "recovery_sensitivity": (0.1, 1.0), "load_change_threshold": (0.20, 0.50),
    "metrics_history_size": (50, 200), "report_interval_sec": (5, 30), "exploration_interval": (50, 200),
}  # fmt: skip
"""Recommended ranges of the same table."""

WEIGHTS = ("throughput_weight", "gpu_utilization_weight", "memory_efficiency_weight")


@st.composite
def recommended_configs(draw):
    """Every key within its recommended range, and no contradiction between them."""
    data = {}
    for key, (low, high) in RANGES.items():
        whole = isinstance(TABLE[key], int) and isinstance(getattr(TunerConfig(), key), int)
        data[key] = draw(st.integers(low, high) if whole else st.floats(low, high))
    data["initial_batch_size"] = draw(st.integers(max(4, data["min_batch_size"]), 16))
    hundredths = draw(
        st.tuples(st.integers(30, 70), st.integers(20, 50)).filter(lambda pair: 10 <= 100 - sum(pair) <= 30)
    )
    data |= dict(zip(WEIGHTS, (hundredths[0] / 100, hundredths[1] / 100, (100 - sum(hundredths)) / 100), strict=True))
    data["strategy"] = draw(st.sampled_from(["static", "dynamic", "hybrid"]))
    data["fallback_level"] = draw(st.sampled_from(["none", "minor", "moderate", "major", "safe"]))
    data["enabled"] = draw(st.booleans())
    return data


@pytest.fixture
def write(tmp_path):
    def _write(section):
        path = tmp_path / "tuner.yaml"
        path.write_text(section if isinstance(section, str) else yaml.safe_dump({"dynamic_batch_tuner": section}))
        return path

    return _write


def test_every_key_of_the_table_has_its_default():
    assert TunerConfig().to_dict() == TABLE


def test_every_range_of_the_table_is_known():
    assert {key: (usual.low, usual.high) for key, usual in TunerConfig.recommended().items()} == RANGES


@given(recommended_configs())
def test_every_config_within_the_ranges_validates_without_warning_and_round_trips_through_yaml(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = TunerConfig(**data)
        again = TunerConfig.from_dict(yaml.safe_load(to_yaml(config))["dynamic_batch_tuner"])
    assert again == config
    assert config.advice() == {}


NOTHING_BEYOND = {("min_batch_size", 0), ("recovery_sensitivity", 1)}
"""Where the end of the range is the end of what is allowed: no batch of 0, no share above 1."""


@pytest.mark.parametrize(
    ("key", "side"),
    [
        (key, side)
        for key in RANGES
        for side in (0, 1)
        if key not in (*WEIGHTS, "stabilization_cycles") and (key, side) not in NOTHING_BEYOND
    ],
)
def test_a_value_outside_its_range_is_warned_of_with_key_value_and_range(key, side):
    end = RANGES[key][side]
    away = (1 if isinstance(getattr(TunerConfig(), key), int) else 0.05 * end) * (-1, 1)[side]
    neighbour = {"initial_batch_size": 16} if key == "min_batch_size" else {}
    with pytest.warns(ConfigWarning, match=f"{key} is .* recommended range is {RANGES[key][0]:g}-"):
        TunerConfig(**{key: end + away}, **neighbour)


@pytest.mark.parametrize(
    ("section", "key", "says"),
    [
        ({"min_batch_size": 64, "max_batch_size": 32}, "min_batch_size", "64 is above max_batch_size 32"),
        ({"initial_batch_size": 512}, "initial_batch_size", r"512 is outside \[min_batch_size 1, max_batch_size 256\]"),
        ({"max_batch_size": 4}, "max_batch_size", "initial_batch_size 8 is outside"),
        ({"fixed_batch_size": 300}, "fixed_batch_size", "300 is outside"),
        (
            {"throughput_weight": 0.0, "gpu_utilization_weight": 0.0, "memory_efficiency_weight": 0.0},
            "throughput_weight",
            "weights are all 0",
        ),
        ({"stabilization_cycles": 200}, "stabilization_cycles", "above metrics_history_size 100"),
        ({"min_batch_size": 0}, "min_batch_size", "whole number >= 1, usually 1-8"),
        ({"max_batch_size": "64"}, "max_batch_size", "'64'; it must be a whole number"),
        ({"max_batch_size": True}, "max_batch_size", "True; it must be a whole number"),
        ({"probing_growth_factor": 1.0}, "probing_growth_factor", "> 1, usually 1.5-3"),
        ({"growth_coefficient": "1e-2"}, "growth_coefficient", "0.01 rather than 1e-2"),
        ({"load_change_threshold": math.nan}, "load_change_threshold", "nan; it must be a finite number"),
        ({"max_acceptable_latency_ms": math.inf}, "max_acceptable_latency_ms", "inf; it must be a finite number"),
        ({"performance_threshold": -0.05}, "performance_threshold", "-0.05; it must be a finite number > 0"),
        ({"memory_usage_limit": 1.5}, "memory_usage_limit", "> 0 and <= 1"),
        ({"strategy": "dinamic"}, "strategy", "static, dynamic, hybrid; did you mean dynamic"),
        ({"fallback_level": None}, "fallback_level", "one of none, minor, moderate, major, safe"),
        ({"enabled": "yes"}, "enabled", "true or false"),
        ({"max_batch_sizes": 64}, "max_batch_sizes", "unknown key 'max_batch_sizes'; did you mean max_batch_size"),
        ({True: 1}, "True", "unknown key 'True'"),
        ({"max_batch_size": [64]}, "max_batch_size", "whole number"),
    ],
)
def test_what_cannot_be_meant_is_refused_naming_key_given_and_allowed(section, key, says):
    with pytest.raises(ConfigError, match=says) as refused:
        TunerConfig.from_dict(section, warn=False)
    assert key in refused.value.problems


def test_every_problem_is_told_at_once():
    with pytest.raises(ConfigError) as refused:
        TunerConfig(min_batch_size=0, growth_coefficient=-1, colour="red")
    assert set(refused.value.problems) == {"min_batch_size", "growth_coefficient", "colour"}


def test_the_documents_spelling_of_hybrid_is_accepted():
    assert TunerConfig(strategy="hybird").strategy == "hybrid"


def test_adjustment_factor_sets_growth_and_decay_unless_they_are_given():
    both = TunerConfig(adjustment_factor=0.4)
    assert (both.growth_coefficient, both.decay_coefficient) == (0.4, 0.4)
    one = TunerConfig(adjustment_factor=0.4, growth_coefficient=0.25)
    assert (one.growth_coefficient, one.decay_coefficient) == (0.25, 0.4)


def test_adjustment_factor_acts_in_an_update_too():
    config = TunerConfig(growth_coefficient=0.1, decay_coefficient=0.5).updated({"adjustment_factor": 0.4})
    assert (config.growth_coefficient, config.decay_coefficient) == (0.4, 0.4)
    assert config.updated({"growth_coefficient": 0.2}).decay_coefficient == 0.4


def test_an_update_changes_what_it_names_and_leaves_the_old_one_alone():
    old = preset("a100-40gb")
    new = old.updated({"max_batch_size": 128})
    assert new.to_dict() == old.to_dict() | {"max_batch_size": 128}
    assert old.max_batch_size == 256


def test_an_update_is_refused_as_a_whole():
    config = TunerConfig()
    with pytest.raises(ConfigError, match="max_batch_size") as refused:
        config.updated({"growth_coefficient": 0.4, "max_batch_size": -1})
    assert list(refused.value.problems) == ["max_batch_size"]
    assert config == TunerConfig()


def test_an_update_warns_of_the_keys_it_changes_only():
    config = preset("t4-16gb")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config.updated({"growth_coefficient": 0.2})
    with pytest.warns(ConfigWarning, match="growth_coefficient"):
        config.updated({"growth_coefficient": 0.6})


def test_a_config_cannot_be_changed_in_place_and_travels():
    config = TunerConfig(max_batch_size=128)
    with pytest.raises(ValueError, match="frozen"):
        config.max_batch_size = 64
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config


def test_a_contradiction_in_a_file_names_file_and_line(write):
    path = write("other: 1\ndynamic_batch_tuner:\n  enabled: true\n  max_batch_size: 32\n  min_batch_size: 64\n")
    with pytest.raises(ConfigError, match=r"min_batch_size 64 is above max_batch_size 32.*tuner\.yaml, line 5"):
        load_tuner_config(path)


def test_a_warning_from_a_file_names_file_and_line(write):
    with pytest.warns(ConfigWarning, match=r"max_batch_size is 1024.*64-512.*tuner\.yaml, line 2") as caught:
        load_tuner_config(write({"max_batch_size": 1024}))
    assert caught[0].message.key == "max_batch_size"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("dynamic_batch_tuners: {}\n", "'dynamic_batch_tuners' may be meant"),
        ("min_batch_size: 3\n", "indent the tuner's keys below"),
        ("dynamic_batch_tuner: [1]\n", "must hold keys and values.*line 1"),
    ],
)
def test_a_file_without_the_section_says_what_to_do(write, content, says):
    with pytest.raises(ConfigError, match=says):
        load_tuner_config(write(content))


@pytest.mark.parametrize("content", ["server: {}\n", "logging:\n  level: info\n"])
def test_a_missing_section_means_all_defaults_and_is_warned_of(write, content):
    with pytest.warns(ConfigWarning, match="no section dynamic_batch_tuner.*defaults"):
        assert load_tuner_config(write(content)) == TunerConfig()


@pytest.mark.parametrize(
    ("weights", "warns"),
    [((0.333, 0.333, 0.333), False), ((0.33, 0.33, 0.33), False), ((0.6, 0.3, 0.2), True), ((0.3, 0.2, 0.1), True)],
)
def test_weights_are_taken_whatever_their_sum_and_warned_of_beyond_a_hundredth(weights, warns):
    keys = ("throughput_weight", "gpu_utilization_weight", "memory_efficiency_weight")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = TunerConfig.from_dict(dict(zip(keys, weights, strict=True)))
    assert any("add up to" in str(warning.message) for warning in caught) is warns
    assert config.weight_sum == pytest.approx(sum(weights))


def test_changing_one_weight_warns_of_the_sum():
    with pytest.warns(ConfigWarning, match="add up to 1.2"):
        TunerConfig().updated({"gpu_utilization_weight": 0.5})


def test_an_empty_section_means_all_defaults(write):
    assert load_tuner_config(write("dynamic_batch_tuner:\n")) == TunerConfig()


def test_the_default_preset_writes_every_default_out():
    assert preset("default") == TunerConfig()


PRESETS = {
    "a100-40gb": {
        "min_batch_size": 4,
        "max_batch_size": 256,
        "initial_batch_size": 16,
        "max_probing_attempts": 15,
        "probing_growth_factor": 2.5,
        "performance_threshold": 0.03,
        "growth_coefficient": 0.25,
        "decay_coefficient": 0.35,
        "stabilization_cycles": 15,
        "batch_size_change_threshold": 0.08,
        "performance_fluctuation_threshold": 0.02,
        "memory_safety_margin_mb": 2048,
        "memory_usage_limit": 0.95,
        "throughput_weight": 0.6,
        "gpu_utilization_weight": 0.3,
        "memory_efficiency_weight": 0.1,
    },
    "m3-pro-36gb": {"min_batch_size": 2, "max_batch_size": 64, "initial_batch_size": 8},
    "t4-16gb": {
        "min_batch_size": 1,
        "max_batch_size": 32,
        "initial_batch_size": 4,
        "max_probing_attempts": 8,
        "probing_growth_factor": 1.8,
        "performance_threshold": 0.08,
        "growth_coefficient": 0.15,
        "decay_coefficient": 0.25,
        "stabilization_cycles": 8,
        "batch_size_change_threshold": 0.15,
        "performance_fluctuation_threshold": 0.05,
        "memory_safety_margin_mb": 1024,
        "memory_usage_limit": 0.85,
        "throughput_weight": 0.4,
        "gpu_utilization_weight": 0.4,
        "memory_efficiency_weight": 0.2,
    },
    "disabled": {"enabled": False, "min_batch_size": 8, "max_batch_size": 8, "initial_batch_size": 8},
}
"""Presets of the dynamic batch tuner document, by what they change."""


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_changes_what_the_document_says_and_nothing_else(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert preset(name).to_dict() == TABLE | PRESETS[name]


def test_presets_are_listed_and_found_in_any_spelling():
    assert presets() == ("default", "a100-40gb", "disabled", "m3-pro-36gb", "t4-16gb")
    assert preset("T4_16GB") == preset("t4-16gb")


def test_an_unknown_preset_is_answered_with_the_closest():
    with pytest.raises(ValueError, match="did you mean 'a100-40gb'"):
        preset("a100")

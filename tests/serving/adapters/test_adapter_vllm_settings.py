"""What vLLM is told of the tuner becomes a session; nothing here needs vLLM."""

import importlib
import json
from pathlib import Path

import pytest

from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.serving.adapters import vllm_settings
from batchpilot.serving.adapters.vllm_settings import VLLMSettings

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def command(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("vllm_tuned").command


def settings_of(arguments):
    """What the scheduler reads from a command line of vLLM."""
    return VLLMSettings.from_additional_config(json.loads(arguments[arguments.index("--additional-config") + 1]))


def test_the_example_starts_vllm_with_a_tuner(command):
    arguments = command("llama", "hybrid", "--max-num-seqs", "256", tpot_ms=40.0)
    assert arguments[:3] == ["vllm", "serve", "llama"]
    assert arguments[-2:] == ["--max-num-seqs", "256"]
    settings = settings_of(arguments)
    assert (settings.tuner, settings.slo.tpot_ms) == ("hybrid", 40.0)
    with settings.session(256, 2048, 100_000) as session:
        assert session.tuner.name == "hybrid"


def test_the_example_starts_vllm_with_a_policy_file(command):
    pytest.importorskip("onnxruntime")
    (policy, *_) = sorted((EXAMPLES.parent / "batchpilot/tuners/policy/shipped").glob("*guarded*.onnx"))
    with settings_of(command("llama", str(policy))).session(64, 2048, 100_000) as session:
        assert 1 <= session.limits().batch_size <= 64


def test_without_settings_the_defaults_hold():
    assert VLLMSettings.from_additional_config({}) == VLLMSettings.from_additional_config(None) == VLLMSettings()


def test_a_tuner_that_searches_stays_below_what_the_server_was_started_with():
    with VLLMSettings(tuner="hybrid").session(48, 4096, 100_000) as session:
        assert session.tuner.config.max_batch_size == 48
        assert session.limits().token_budget == 4096


def test_the_guarded_default_guards_what_the_server_was_started_with():
    with VLLMSettings(tpot_ms=40.0).session(48, 4096, 100_000) as session:
        limits = session.limits()
    assert (limits.batch_size, limits.token_budget, limits.step_target_ms, limits.ttft_guard) == (48, 4096, 38.0, 1.0)


def test_tuners_that_know_a_model_leave_the_room_for_its_error_to_the_adapter_unless_told(monkeypatch):
    made = []
    monkeypatch.setattr(vllm_settings, "make_tuner", lambda name, *_, **options: made.append((name, options)))
    for name in ("guarded-adaptive", "policy-guarded", "model-based", "hybrid"):
        VLLMSettings(tuner=name)._tuner(48, 4096)
    VLLMSettings(tuner="model-based", options={"error_margin": True})._tuner(48, 4096)
    assert [(name, options.get("error_margin")) for name, options in made] == [
        ("guarded-adaptive", False),
        ("policy-guarded", False),
        ("model-based", False),
        ("hybrid", None),
        ("model-based", True),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tunr": "hybrid"}, "did you mean 'tuner'"),
        ({"track": "guard"}, "unknown track 'guard'"),
        ({"ttft_ms": -1}, "must be above 0"),
        ("hybrid", "must be a mapping"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        VLLMSettings.from_additional_config({"batchpilot": settings})


def test_a_wrong_tuner_is_named():
    with pytest.raises(ValueError, match="did you mean 'hybrid'"):
        VLLMSettings(tuner="hybrd").session(48, 4096, 100_000)


def test_what_is_known_of_step_times_is_taken_from_a_file_or_by_name(tmp_path):
    known = SaturationParameters(20.0, 0.12, 0.005)
    by_file = VLLMSettings(tuner="model-based", parameters=str(known.to_yaml(tmp_path / "latency.yaml")))
    by_name = VLLMSettings(parameters={"p_max": 20.0, "k_b": 0.12, "k_s": 0.005})
    assert by_file.latency == by_name.latency == known
    assert VLLMSettings().known_estimate is None
    with by_file.session(48, 4096, 100_000) as session:
        assert session.estimate[:3] == pytest.approx(known.as_array()[:3])


@pytest.mark.parametrize("parameters", [{"p_max": 20.0}, {"p_mx": 1.0}, {"p_max": "x", "k_b": 1, "k_s": 1}])
def test_wrong_parameters_are_named(parameters):
    with pytest.raises(ValueError, match="latency parameter"):
        VLLMSettings(parameters=parameters)


def test_steps_are_recorded_where_the_settings_say_and_a_file_of_somebody_else_stops_the_start(tmp_path):
    assert VLLMSettings().recorder() is None
    recorder = VLLMSettings(record=str(tmp_path / "steps.csv")).recorder()
    assert recorder.recording
    recorder.stop()
    (tmp_path / "notes.csv").write_text("notes\n")
    with pytest.raises(ValueError, match="no recording of steps"):
        VLLMSettings(record=str(tmp_path / "notes.csv")).recorder()

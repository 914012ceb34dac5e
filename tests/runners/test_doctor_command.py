"""What the doctor says of a model on a device."""

import json

import pytest
from typer.testing import CliRunner

from batchpilot.engines.detection.found import DetectedDevice
from batchpilot.runners import doctor_command
from batchpilot.runners.main import app


def told(*words):
    ended = CliRunner().invoke(app, ["doctor", "--json", *words])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return json.loads(ended.stdout) if ended.stdout else ended.stderr


def test_a_first_batch_size_grows_with_the_device_and_shrinks_with_the_requests():
    words = ("--model", "Llama-3.1-8B", "--device")
    sizes = [
        int(told(*words, *rest)["first batch size"].split()[0])
        for rest in (("A10", "--tokens", "4096"), ("A100-80GB", "--tokens", "4096"), ("A100-80GB", "--tokens", "512"))
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]
    assert "measured" in told(*words, "A100-80GB")["its decode step"]


def test_the_device_that_was_found_is_taken_and_counted(monkeypatch):
    card = DetectedDevice(kind="nvidia", model="NVIDIA H100 80GB HBM3", count=4)
    monkeypatch.setattr(doctor_command, "detect_device", lambda: card)
    answer = told("--model", "Llama-3.1-8B")
    assert answer["device"] == "4 x NVIDIA H100 80GB HBM3 (nvidia)"
    assert "on H100-80GB:" in answer["first batch size"]


@pytest.mark.parametrize(
    ("words", "closest"),
    [(("--model", "Lama-3.1-8B"), "Llama-3.1-8B"), (("--model", "Qwen3-8B", "--device", "A11"), "A10")],
)
def test_what_cannot_be_meant_is_told_with_the_closest_name(words, closest):
    ended = CliRunner().invoke(app, ["doctor", *words])
    assert ended.exit_code == 2
    assert closest in ended.stderr


def test_a_device_that_nobody_catalogued_is_told(monkeypatch):
    monkeypatch.setattr(doctor_command, "detect_device", lambda: DetectedDevice(kind="cpu", model="Some CPU"))
    assert "Some CPU is not in the catalogue" in told("--model", "Llama-3.1-8B")["first batch size"]

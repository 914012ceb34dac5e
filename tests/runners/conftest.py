"""A scenario that takes milliseconds, as an object and as a file."""

import pytest
import yaml

from batchpilot.configs.scenario import load_scenario

TINY = {
    "name": "tiny",
    "description": "Twenty seconds of chat, enough to overload an A10 at batch 1.",
    "family": "overload",
    "device": "A10",
    "model": "Qwen3-0.6B",
    "workload": {
        "phases": [
            {
                "duration_s": 20,
                "arrivals": {"kind": "poisson", "rate_per_s": 20.0},
                "lengths": {"kind": "azure-conv", "max_prompt_tokens": 2000, "max_output_tokens": 200},
                "slo_mix": {"interactive": 1.0},
            }
        ]
    },
}


@pytest.fixture
def tiny_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture
def tiny(tiny_file):
    return load_scenario(tiny_file)

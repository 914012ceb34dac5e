"""Money and energy of a token, as `plan` and `fleet` tell them."""

import json

import pytest
from planned import ONE
from typer.testing import CliRunner

from batchpilot.runners.main import app


def told(*words):
    answer = CliRunner().invoke(app, [str(word) for word in (*words, "--json")])
    assert answer.exit_code == 0, answer.stderr
    return json.loads(answer.stdout)


def plan(*more):
    return told("plan", *ONE, "--seeds", 1, "--duration-s", 40, *more)


def test_a_plan_tells_energy_and_cost_within_slo(tmp_path):
    full = plan()
    fleet = full["fleet"]
    tokens_per_s = full["rate_per_s"] * 128
    assert 60.0 / tokens_per_s < fleet["joules_per_output_token"] <= 400.0 / tokens_per_s
    assert fleet["usd_per_million_tokens_within_slo"] == pytest.approx(fleet["usd_per_million_output_tokens"], rel=0.2)
    own = tmp_path / "power.yaml"
    own.write_text("A100-80GB: {peak_w: 800, idle_w: 120}\n")
    assert plan("--power", own)["fleet"]["joules_per_output_token"] == pytest.approx(
        2 * fleet["joules_per_output_token"]
    )
    idle = plan("--rate", full["rate_per_s"] / 10)["fleet"]
    assert idle["joules_per_output_token"] > 1.5 * fleet["joules_per_output_token"]


def test_a_fleet_tells_joules_of_a_good_token():
    words = ("fleet", "quick-chat", "--replicas", 2, "--router", "round-robin", "--seeds", 1)
    (run,) = told(*words)["ways"][0]["runs"]
    good = run["joules"] / run["joules_per_token"]
    assert good > 0
    hours = run["device_hours"]
    assert 0.15 * 400 * 3600 * hours < run["joules"] < 400 * 3600 * hours
    table = CliRunner().invoke(app, [str(word) for word in words]).output
    assert "J a good" in table

"""`batchpilot fleet` as a user runs it."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from batchpilot.runners.fleet.command import fleet
from batchpilot.runners.fleet.comparison import parse_replicas

DOCUMENTS = """
name: documents
description: Questions about documents, of which no replica holds all.
family: stationary
device: A100-80GB
model: Llama-3-8B
workload:
  phases:
    - duration_s: 20
      arrivals: {kind: poisson, rate_per_s: 2.0}
      lengths: {kind: fixed, prompt_tokens: 2100, output_tokens: 20}
  sharing:
    levels: [{tokens: 2000, kinds: 30}]
"""


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(fleet)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in (*arguments, "--seeds", "1")])


def test_routers_are_compared_on_the_same_requests_with_a_verdict(run):
    result = run("quick-chat", "--replicas", "2", "--router", "round-robin", "--router", "least-requests")
    assert result.exit_code == 0, result.output
    assert "replicas: 2 x A100-80GB" in result.output
    assert "Any of these will do" in result.output or "keeps most" in result.output
    assert "Who takes a request?" in result.output


def test_a_scaler_is_told_with_hours_and_dollars(run):
    result = run(
        "quick-chat",
        "--replicas",
        1,
        "--router",
        "least-requests",
        "--scaler",
        "none",
        "--scaler",
        "queue-and-use",
        "--json",
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    fixed, scaled = told["ways"]
    assert (fixed["scaler"], scaled["scaler"]) == ("none", "queue-and-use")
    assert scaled["runs"][0]["usd"] > 0
    assert fixed["runs"][0]["requests"] == scaled["runs"][0]["requests"]
    assert told["git_revision"]


def test_the_same_replicas_are_compared_whole_and_split(run):
    asked = ("quick-chat", "--replicas", 2, "--router", "least-requests", "--prefill", 1)
    result = run(*asked, "--link-ms", 5, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    whole, parted = (way["runs"][0] for way in told["ways"])
    assert [way["scaler"] for way in told["ways"]] == ["none", "split"]
    assert whole["handover_p99_ms"] is None
    assert parted["handover_p99_ms"] > 5.0
    assert parted["requests"] == whole["requests"]
    assert parted["device_hours"] == pytest.approx(whole["device_hours"], rel=0.1)
    assert told["split"] == "1 x A100-80GB prefill, the others decode; KV moves at 25 GB/s, then 5 ms"


def test_the_fleet_tuner_scales_and_limits_but_no_replica_that_tunes_itself(run):
    asked = ("quick-chat", "--replicas", 1, "--router", "least-requests", "--scaler", "fleet-tuner")
    result = run(*asked, "--json")
    assert result.exit_code == 0, result.output
    (way,) = json.loads(result.stdout)["ways"]
    assert way["runs"][0]["goodput_fraction"] > 0
    refused = run(*asked, "--tuner", "aimd")
    assert refused.exit_code != 0
    assert "have tuners" in refused.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--router", "best"), "routing rule"),
        (("--scaler", "magic"), "scaler"),
        (("--replicas", "H100:none"), "whole number of replicas"),
        (("--replicas", "Z80:2"), "Z80"),
        (("--format", "azure2023"), "--trace"),
        (("--replicas", "2", "--prefill", "2"), "leaves a pool empty"),
        (("--replicas", "2", "--prefill", "H100:1"), "kind of replica"),
        (("--link-ms", "2"), "--prefill"),
    ],
)
def test_mistakes_are_named(run, arguments, said):
    result = run("quick-chat", *arguments)
    assert result.exit_code != 0
    assert said in result.output


def test_replicas_are_typed_as_numbers_or_devices():
    assert parse_replicas(["4"], "H100-80GB") == [("H100-80GB", 4)]
    assert parse_replicas(["H100:2", "T4"], "A10") == [("H100-80GB", 2), ("T4", 1)]


def test_replicas_find_what_prompts_have_in_common_where_asked_to(run, tmp_path):
    file = tmp_path / "documents.yaml"
    file.write_text(DOCUMENTS)
    asked = (file, "--replicas", 2, "--router", "round-robin", "--router", "prefix")
    on, off = (run(*asked, f"--{switch}", "--json") for switch in ("prefix-cache", "no-prefix-cache"))
    assert on.exit_code == off.exit_code == 0, on.output + off.output
    turns, known = (way["runs"][0]["prefix_hit_rate"] for way in json.loads(on.stdout)["ways"])
    assert known > turns + 0.05 > 0.1
    assert [way["runs"][0]["prefix_hit_rate"] for way in json.loads(off.stdout)["ways"]] == [0.0, 0.0]
    assert "tokens found" in run(*asked, "--prefix-cache").output


TALKS = """
name: talks
description: Conversations whose turns find their history where they were answered.
family: agents
device: A100-80GB
model: Llama-3-8B
workload:
  conversations:
    duration_s: 40
    arrivals: {kind: poisson, rate_per_s: 1.0}
    requests: {median: 4, sigma: 0.5, max: 8}
    system_tokens: 64
    first_tokens: {median: 300, sigma: 0.5, max: 1000}
    message_tokens: {median: 60, sigma: 0.5, max: 400}
    output_tokens: {median: 50, sigma: 0.5, max: 200}
    think: {median_s: 2, sigma: 0.5, max_s: 10}
    max_context_tokens: 4000
engine: {prefix_cache: true}
"""


def test_conversations_find_their_history_where_the_router_looks_for_it(run, tmp_path):
    file = tmp_path / "talks.yaml"
    file.write_text(TALKS)
    asked = (file, "--replicas", 3, "--router", "round-robin", "--router", "prefix", "--scaler", "none", "--json")
    result = run(*asked, "--poll-ms", 500)
    assert result.exit_code == 0, result.output
    turns, prefix = (way["runs"][0] for way in json.loads(result.stdout)["ways"])
    assert turns["requests"] == prefix["requests"] > 100
    assert prefix["prefix_hit_rate"] > turns["prefix_hit_rate"] + 0.2

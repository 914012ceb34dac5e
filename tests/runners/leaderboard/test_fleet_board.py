"""The leaderboard of fleets: strategies by name, the same requests for all, files that say where they come from."""

from __future__ import annotations

import csv
import json
import math

import pytest
from typer.testing import CliRunner

from batchpilot.baselines.static import SERVER_DEFAULT
from batchpilot.configs.errors import ConfigError
from batchpilot.configs.fleet_scenario import SUITE, load_fleet_scenario
from batchpilot.envs.fleet.prepared import prepare_fleet
from batchpilot.envs.fleet.task import FleetTask
from batchpilot.fleet.routers import Router
from batchpilot.fleet.scalers import TargetUse
from batchpilot.runners.chosen import is_of_fleets, suite_names
from batchpilot.runners.fleet.strategies import ALL, DEFAULT_STRATEGIES, expand, parse
from batchpilot.runners.main import app

SCENARIO = """
name: tiny
description: A short step.
family: bursty
replicas: {A100-80GB: 1}
most: 2
startup_s: 10
interval_s: 15
model: Llama-3-8B
workload:
  phases:
    - duration_s: 40
      arrivals: {kind: poisson, load: 1.5}
      lengths: {kind: azure-conv, max_prompt_tokens: 4096}
"""
STRATEGIES = (
    "least-tokens+none,least-tokens+queue-and-use+guarded-default,least-tokens+fleet-tuner,best-fixed,clairvoyant"
)


def run(folder, *more):
    (folder / "tiny.yaml").write_text(SCENARIO)
    typed = ["leaderboard", "--suite", "fleet", "--scenario", str(folder / "tiny.yaml"), "--out", str(folder / "out")]
    return CliRunner().invoke(app, [*typed, "--tuners", STRATEGIES, "--seeds", "2", *more])


def test_every_strategy_is_ranked_on_the_same_requests_with_its_origin(tmp_path):
    told = run(tmp_path)
    assert told.exit_code == 0, told.output
    assert "is worth most" in told.output
    rows = list(csv.DictReader((tmp_path / "out/results.csv").open()))
    assert len(rows) == 5 * 2
    assert len({(row["seed"], row["requests"]) for row in rows}) == 2
    assert all(row["git_revision"] and row["config_hash"] and row["versions"] for row in rows)
    by = {(row["tuner"], row["seed"]): row for row in rows}
    for seed in ("0", "1"):
        fixed = float(by["best-fixed", seed]["net_value"])
        assert fixed >= float(by["least-tokens+none", seed]["net_value"])
        assert float(by["clairvoyant", seed]["replica_hours"]) > 0
    summary = list(csv.DictReader((tmp_path / "out/summary.csv").open()))
    overall = [row for row in summary if row["scenario"] == "(overall)"]
    values = [float(row["net_value"]) for row in overall]
    assert values == sorted(values, reverse=True)
    assert all(
        float(row["net_value_low"]) <= float(row["net_value"]) <= float(row["net_value_high"]) for row in overall
    )
    page = (tmp_path / "out/report.html").read_text()
    assert "A short step." in page
    assert "git_revision" in page
    assert json.loads((tmp_path / "out/config.json").read_text())["track"] == "fleet"

    again = run(tmp_path)
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    resumed = run(tmp_path, "--resume", "--json")
    assert resumed.exit_code == 0
    assert {row["tuner"] for row in json.loads(resumed.stdout)} == set(STRATEGIES.split(","))


def test_options_of_engines_are_refused(tmp_path):
    told = run(tmp_path, "--device", "H100-80GB")
    assert told.exit_code == 2
    assert "--device would change nothing for fleets" in " ".join(told.output.split())


def test_names_mean_a_router_a_scaler_and_limits():
    assert parse("round-robin+none").limits == "static-default"
    assert parse("least-tokens+fleet-tuner").limits == "guarded-default"
    assert parse("clairvoyant").is_reference
    assert set(DEFAULT_STRATEGIES) == set(expand(()))
    assert len(expand((ALL,))) == 8 * 7 + 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("least-token+none", "least-tokens"),
        ("least-tokens+queue", "queue-and-use"),
        ("least-tokens+none+guarded", "guarded-default"),
        ("least-tokens", "ROUTER.SCALER"),
        ("least-tokens+fleet-tuner+aimd", "sets the limits itself"),
    ],
)
def test_an_unknown_strategy_is_refused_with_what_is_meant(name, said):
    with pytest.raises(ValueError, match=said):
        expand((name,))


def test_the_suite_is_listed_and_its_scenarios_mean_fleets():
    assert SUITE in suite_names()
    assert is_of_fleets("quick", ["fleet-step"])
    assert not is_of_fleets("quick", ["quick-chat"])
    assert is_of_fleets("fleet", None)


POOLS = SCENARIO.replace("{A100-80GB: 1}", "{A100-80GB: 2}").replace("load: 1.5", "load: 0.4")


def test_split_plays_pools_where_the_scenario_says_how(tmp_path):
    (tmp_path / "pools.yaml").write_text(
        POOLS + "pools: {prefill: {A100-80GB: 1}, bandwidth_gb_per_s: 25, latency_ms: 3}\n"
    )
    (tmp_path / "whole.yaml").write_text(POOLS.replace("name: tiny", "name: whole"))
    typed = ["leaderboard", "--suite", "fleet", "--out", str(tmp_path / "out"), "--seeds", "1"]
    for name in ("pools", "whole"):
        typed += ["--scenario", str(tmp_path / f"{name}.yaml")]
    told = CliRunner().invoke(app, [*typed, "--tuners", "least-tokens+none,least-tokens+split"])
    assert told.exit_code == 0, told.output
    rows = list(csv.DictReader((tmp_path / "out/results.csv").open()))
    moved = {(row["scenario"], row["tuner"]): float(row["handover_p99_ms"]) for row in rows}
    assert moved.pop(("tiny", "least-tokens+split")) > 3.0
    assert all(math.isnan(value) for value in moved.values())


@pytest.mark.parametrize(
    ("pools", "said"),
    [
        ("{prefill: {A100-80GB: 3}, bandwidth_gb_per_s: 25}", "3 replicas of A100-80GB shall prefill; 2 stand ready"),
        ("{prefill: {A100-80GB: 2}, bandwidth_gb_per_s: 25}", "leave one that decodes"),
        ("{prefill: {H100-80GB: 1}, bandwidth_gb_per_s: 25}", "0 stand ready"),
        ("{prefill: {A100-80GB: 1}}", "bandwidth_gb_per_s"),
    ],
)
def test_pools_that_cannot_be_are_refused_where_the_file_says_them(tmp_path, pools, said):
    (tmp_path / "pools.yaml").write_text(POOLS + f"pools: {pools}\n")
    with pytest.raises(ConfigError, match=said):
        load_fleet_scenario(tmp_path / "pools.yaml")


DOCUMENTS = SCENARIO.replace(
    "kind: azure-conv, max_prompt_tokens: 4096", "kind: fixed, prompt_tokens: 2100, output_tokens: 20"
)
DOCUMENTS += "  sharing:\n    levels: [{tokens: 2000, kinds: 8}]\nengine: {prefix_cache: true}\n"


def test_what_replicas_found_in_their_caches_is_a_column(tmp_path):
    (tmp_path / "documents.yaml").write_text(DOCUMENTS)
    typed = ["leaderboard", "--suite", "fleet", "--out", str(tmp_path / "out"), "--seeds", "1"]
    typed += ["--scenario", str(tmp_path / "documents.yaml"), "--tuners", "round-robin+none,prefix+none"]
    told = CliRunner().invoke(app, typed)
    assert told.exit_code == 0, told.output
    rows = list(csv.DictReader((tmp_path / "out/results.csv").open()))
    assert all(float(row["prefix_hit_rate"]) > 0.5 for row in rows)
    summary = list(csv.DictReader((tmp_path / "out/summary.csv").open()))
    assert all(float(row["prefix_hit_rate"]) > 0.5 for row in summary)


MIXED = SCENARIO.replace("{A100-80GB: 1}", "{H100-80GB: 1, A100-80GB: 0}").replace("most: 2", "most: 3")


@pytest.mark.parametrize(
    ("scaled", "said"),
    [
        ("{A10: 2}", "A10 is none of H100-80GB, A100-80GB; write it there, with 0 ready"),
        ("{A100-80GB: 2}", "0 replicas of the kinds that are scaled stand ready, outside least 1 and most 3"),
        ("{H100-80GB: 0}", "scaled"),
    ],
)
def test_kinds_that_cannot_be_scaled_are_refused_where_the_file_says_them(tmp_path, scaled, said):
    (tmp_path / "mixed.yaml").write_text(MIXED + f"scaled: {scaled}\n")
    with pytest.raises(ConfigError, match=said):
        load_fleet_scenario(tmp_path / "mixed.yaml")


def test_a_scenario_scales_the_kind_whose_served_token_is_cheapest_first(tmp_path):
    (tmp_path / "mixed.yaml").write_text(MIXED + "scaled: {H100-80GB: 2, A100-80GB: 1}\n")
    scenario = load_fleet_scenario(tmp_path / "mixed.yaml")
    prepared = prepare_fleet(scenario, 0, lambda run, _: SERVER_DEFAULT)
    cost = [spec.usd_per_device_hour / spec.weight for spec in prepared.offer.specs]
    order = list(prepared.growing)
    assert cost[order[0]] < cost[order[1]]
    assert prepared.kinds == [0, 0, 1] == FleetTask(scenario).kinds
    assert prepared.ready == 1
    assert [spec.count for spec in prepared.standing(3).offer.specs] == [2, 1]
    fleet = prepared.fleet(Router("least-tokens"), TargetUse(target=0.05, interval_s=15.0))
    fleet.run_until(30_000.0)
    assert fleet.replicas.spans[1].spec == order[0]
    first = prepared.offer.specs[0]
    assert prepared.added_tokens_per_s == pytest.approx(
        prepared.offer.capacity_tokens_per_s * prepared.offer.specs[order[0]].weight / first.weight
    )

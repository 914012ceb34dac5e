"""`batchpilot tune --objective A,B`: what is on the front, what it is judged by, and what is refused."""

import json

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("optuna")

from batchpilot.core.limits import Limits
from batchpilot.runners.tuning.bench import SimulatedBench
from batchpilot.runners.tuning.command import tune
from batchpilot.runners.tuning.front import AIMS, aims_of


@pytest.fixture
def run(tiny_file):
    app = typer.Typer()
    app.command()(tune)

    def call(*arguments):
        words = ["--scenario", tiny_file, "--seeds", "1", "--trials", "14", "--objective", "goodput,ttft-p95"]
        return CliRunner().invoke(app, [str(word) for word in (*words, *arguments)])

    return call


def beaten(one, other):
    """Whether `other` is no worse in both and better in one."""
    no_worse = other["goodput"] >= one["goodput"] and other["ttft-p95"] <= one["ttft-p95"]
    return no_worse and other != one


def test_no_setting_of_the_front_is_beaten_and_each_is_what_a_run_of_it_gives(run, tmp_path, tiny):
    told = run("--out", tmp_path)
    assert told.exit_code == 0, told.output
    found = json.loads((tmp_path / "results.json").read_text())
    front = [one for one in found["settings"] if one["on_front"]]
    assert front
    assert not any(beaten(one["seen"], other["seen"]) for one in front for other in found["settings"])
    bench = SimulatedBench(tiny)
    for one in front:
        limits = Limits.from_dict(one["limits"])
        result = bench.served(limits, 0)
        assert one["seen"]["goodput"] == pytest.approx(result.goodput_fraction)
        assert one["seen"]["ttft-p95"] == pytest.approx(result.percentile_ms("ttft_ms", 95) / 1000.0)
        assert one["unseen"]["goodput"] == pytest.approx(bench.served(limits, 1).goodput_fraction)
    assert found["origin"]["seeds"] == [0]
    assert f"{len(front)} of 14 tried settings" in found["verdict"]
    assert "ttft-p95, s" in told.output
    page = (tmp_path / "report.html").read_text()
    assert "What does goodput cost of ttft-p95?" in page
    assert " s." in found["verdict"]


def test_a_constraint_bounds_the_front_and_one_that_nothing_keeps_is_told(run, tmp_path, tiny):
    assert run("--out", tmp_path / "a", "--max-refused", "0").exit_code == 0
    found = json.loads((tmp_path / "a" / "results.json").read_text())
    bench = SimulatedBench(tiny)
    for one in found["settings"]:
        if one["on_front"]:
            assert bench.served(Limits.from_dict(one["limits"]), 0).refused_fraction == 0
    told = run("--out", tmp_path / "b", "--max-memory", "0")
    assert told.exit_code == 2
    assert "none of 14 trials keeps every constraint" in told.output


def test_a_study_goes_on_where_it_was_left(run, tmp_path):
    assert run("--out", tmp_path / "whole", "--json").exit_code == 0
    assert run("--out", tmp_path / "parts", "--trials", "6").exit_code == 0
    assert run("--out", tmp_path / "parts", "--resume").exit_code == 0
    whole, parts = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts"))
    assert whole["settings"] == parts["settings"]
    refused = run("--out", tmp_path / "parts")
    assert refused.exit_code == 2
    assert "add --resume or --overwrite" in refused.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--objective", "goodput,godput"], "goodput"),
        (["--objective", "goodput,goodput"], "give two or more, each once"),
        (["--objective", "goodput,"], "objective"),
        (["--objective", "ttft-p95"], "ttft-p95"),
        (["--sampler", "cmaes"], "knows one objective only"),
        (["--jobs", "2"], "--jobs would change nothing with --objective goodput,ttft-p95"),
    ],
)
def test_mistakes_are_told(run, tmp_path, arguments, message):
    pytest.importorskip("cmaes")
    told = run("--out", tmp_path, *arguments)
    assert told.exit_code == 2
    assert message in " ".join(told.output.split())
    assert not (tmp_path / "results.json").exists()


def test_aims_that_are_best_where_nobody_is_served_are_minimised():
    assert {name for name, aim in AIMS.items() if aim.direction == "minimize"} == {"ttft-p95", "refused"}
    assert [aim.name for aim in aims_of("refused, goodput")] == ["refused", "goodput"]

"""`batchpilot plan --growth` as a user runs it."""

import json

import pytest
from planned import ONE
from typer.testing import CliRunner

from batchpilot.runners.main import app


def plan(*arguments):
    words = ("plan", *ONE, "--seeds", 1, "--duration-s", 40, *arguments)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_growth_says_when_to_add_what_at_which_cost():
    answer = plan("--rate", 30, "--growth", "20%", "--months", 6, "--lead-months", 2, "--json")
    told = json.loads(answer.stdout)
    months = told["growth"]["months"]
    assert len(months) == 6
    assert months[-1]["expected_per_s"] == pytest.approx(30 * 1.2**6)
    for month in months:
        assert month["engines"] * told["rate_per_s"] >= month["planned_per_s"]
        hours = 365.25 * 2
        assert month["usd"] == pytest.approx(month["engines"] * hours * told["fleet"]["usd_per_device_hour"])


def test_past_rates_are_fitted_and_a_table_tells_late_orders(tmp_path):
    past = tmp_path / "past.csv"
    rates = (20, 22.5, 24, 28, 29, 34)
    past.write_text("date,rate_per_s\n" + "".join(f"2026-0{k + 1}-01,{rate}\n" for k, rate in enumerate(rates)))
    answer = plan("--growth", past, "--months", 9, "--lead-months", 4)
    assert answer.exit_code == 0, answer.stderr
    assert "When to add what?" in answer.output
    assert "months late" in answer.output
    assert "fitted; planned for what a month" in " ".join(answer.output.split())


def test_mistakes_are_told_in_a_line(tmp_path):
    bad = tmp_path / "past.csv"
    bad.write_text("date,rate_per_s\n2026-01-01,x\n")
    for words, told in (
        (("--growth", "5%"), "needs --rate"),
        (("--growth", bad), "line 2: not of the form"),
        (("--growth", bad, "--rate", 3), "leave one out"),
        (("--growth", tmp_path / "no.csv"), "no.csv"),
        (("--growth", "-100%", "--rate", 3), "-100 %"),
        (("--months", 3), "--months would change nothing"),
    ):
        answer = plan(*words)
        assert answer.exit_code == 2, words
        assert told in answer.stderr

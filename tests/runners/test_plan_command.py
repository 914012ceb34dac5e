"""`batchpilot plan` as a user runs it."""

import json

import pytest
import typer
from typer.testing import CliRunner

from batchpilot.core.limits import Limits
from batchpilot.runners.planning.command import plan_command
from batchpilot.runners.selection import parse_limits

QUICK = ("--seeds", "1", "--duration-s", "40")


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(plan_command)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in (*arguments, *QUICK)])


def test_a_plan_is_told_with_limits_to_paste_and_its_disagreement_with_simulation(run):
    result = run("--device", "A100-80GB", "--model", "Llama-2-7B", "--rate", "20")
    assert result.exit_code == 0, result.output
    pasted = next(line for line in result.output.splitlines() if line.startswith("limits: ")).removeprefix("limits: ")
    limits = parse_limits(pasted)
    assert limits.step_target_ms <= 90
    assert limits.ttft_guard == 1
    assert "Plan against simulation" in result.output
    assert "for 20 requests/s" in result.output


def test_the_same_in_json_for_machines(run):
    result = run("--device", "H100", "--model", "Llama-3-8B", "--workload", "512,128", "--rate", "100", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    Limits.from_dict(told["limits"])
    fleet = told["fleet"]
    assert fleet["devices"] * told["rate_per_s"] >= 100
    assert fleet["spare"] == pytest.approx(fleet["engines"] * told["rate_per_s"] / 100 - 1)
    assert fleet["rate_if_steps_are_slower_per_s"] < told["rate_per_s"]
    planned = [point for point in told["simulated"] if point["rate_per_s"] == told["rate_per_s"]]
    assert planned[0]["attainment"] >= 0.95
    assert told["latency"].startswith(("estimated", "measured"))


def test_a_report_holds_both_charts_and_loads_nothing(run, tmp_path):
    page = tmp_path / "plan.html"
    result = run("--device", "A10", "--model", "Qwen3-0.6B", "--workload", "azure-code", "--report", page)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert text.count("<svg") == 2
    assert "How much can one engine take?" in text
    assert "http" not in text.split("</style>")[1]


def test_a_scenario_file_lends_its_requests(run, tiny_file):
    result = run("--device", "A10", "--model", "Qwen3-0.6B", "--workload", tiny_file, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rate_per_s"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "Llama-2-7B", "--workload", "azure-con"), "azure-con"),
        (("--model", "Llama-2-7B", "--workload", "10,20,30"), "prompt,output"),
        (("--model", "Llama-2-7B", "--workload", "4000,2000"), "exceed the 4096"),
        (
            (
                "--model",
                "Llama-2-70B",
            ),
            "does not fit",
        ),
        (("--model", "Llama-2-7B", "--tpot-ms", "5"), "a step of one token takes"),
    ],
)
def test_what_cannot_be_planned_is_told_in_one_line(run, arguments, message):
    result = run("--device", "A100-80GB", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output

"""`batchpilot plan` as a user runs it."""

import json
import math

import pytest
import typer
from typer.testing import CliRunner

from batchpilot.configs.catalogue import device, model
from batchpilot.core.limits import Limits
from batchpilot.core.slo import SLO
from batchpilot.runners.planning import choosing
from batchpilot.runners.planning.capacity import find_capacity
from batchpilot.runners.planning.command import plan_command
from batchpilot.runners.planning.held import held_in_simulation, simulated
from batchpilot.runners.planning.loads import find_draw, find_load
from batchpilot.runners.planning.planned import Question
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
    assert text.count("<svg") == 3
    assert "How much can one engine take?" in text
    assert "What does it cost, and how many devices does it take?" in text
    assert "http" not in text.split("</style>")[1]


def test_a_scenario_file_lends_its_requests(run, tiny_file):
    result = run("--device", "A10", "--model", "Qwen3-0.6B", "--workload", tiny_file, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rate_per_s"] > 0


@pytest.mark.parametrize(
    ("chip", "served", "workload", "slo"),
    [
        ("A100-80GB", "Llama-2-7B", "azure-conv", SLO(2000, 100)),
        ("H100-80GB", "Llama-3.1-8B", "azure-conv", SLO(1000, 50)),
        ("A10", "Qwen3-0.6B", "azure-code", SLO(2000, 100)),
    ],
)
def test_capacity_and_its_own_simulation_agree_within_10_percent(chip, served, workload, slo):
    place = device(chip), model(served)
    draw = find_draw(workload, *place, 1)
    question = Question(*place, 1, "fp16", workload, draw, slo, 0.95)
    found = find_capacity(question, question.plan(), range(2), 300.0)
    assert found.plan.rate_per_s == pytest.approx(held_in_simulation(found.curve, 0.95), rel=0.1)
    again = simulated(question, found.plan.limits, found.plan.rate_per_s, range(7, 10), 300.0)
    assert again.attainment > 0.93


def test_one_deployment_is_planned_where_all_is_given(run):
    one = ("--tensor-parallel", "1", "--dtype", "fp16")
    told = json.loads(run("--device", "H100", "--model", "Llama-3.1-8B", *one, "--json").stdout)
    assert told["choices"] == []
    assert (told["tensor_parallel"], told["dtype"]) == (1, "fp16")


def test_without_a_device_all_are_compared_and_the_cheapest_is_planned(run, tmp_path):
    own = tmp_path / "prices.yaml"
    own.write_text("H200: {usd_per_hour: 0.5, source: ours}\nB200: {usd_per_hour: 60}\n")
    asked = ("--model", "Qwen3-30B-A3B", "--workload", "1024,256", "--rate", "30", "--prices", own)
    told = json.loads(run(*asked, "--json").stdout)
    costs = [one["usd_per_million_output_tokens"] for one in told["choices"] if one["usd_per_device_hour"] is not None]
    assert costs == sorted(costs)
    assert told["device"] == told["choices"][0]["device"] == "H200"
    assert told["choices"][0]["simulated"]
    assert told["fleet"]["price_source"] == "ours"
    assert {one["device"] for one in told["choices"]} >= {"H100-80GB", "H200", "B200", "MI300X", "L40S"}
    assert {one["device"] for one in told["refused"]} >= {"T4", "A10"}
    best = [one for one in told["choices"] if one["pareto"]]
    assert best[0] == told["choices"][0]
    for one in told["choices"]:
        beaten = [
            other
            for other in best
            if other["usd_per_million_output_tokens"] <= (one["usd_per_million_output_tokens"] or math.inf)
            and other["devices"] <= one["devices"]
        ]
        assert beaten or one["usd_per_device_hour"] is None


def test_what_simulation_holds_at_no_rate_is_refused_and_the_next_is_planned(run, monkeypatch):
    cheapest = []

    def holds_nothing_on_the_cheapest(question, *arguments):
        cheapest.append(question.device.name)
        if question.device.name == cheapest[0]:
            raise ValueError("95% within the targets is held at no rate")
        return find_capacity(question, *arguments)

    monkeypatch.setattr(choosing, "find_capacity", holds_nothing_on_the_cheapest)
    told = json.loads(run("--model", "Qwen3-30B-A3B", "--workload", "1024,256", "--rate", "30", "--json").stdout)
    of_the_cheapest = [one for one in told["refused"] if one["device"] == cheapest[0] and "at no rate" in one["reason"]]
    assert len(of_the_cheapest) == cheapest.count(cheapest[0])
    assert told["choices"][0]["simulated"]
    assert sum(one["simulated"] for one in told["choices"]) >= choosing.SIMULATED
    assert told["device"] != cheapest[0]


def test_a_price_of_an_unknown_device_or_below_zero_is_told_with_its_file(run, tmp_path):
    own = tmp_path / "prices.yaml"
    for text, message in (("H300: {usd_per_hour: 1}", "H300"), ("H200: {usd_per_hour: -1}", "must be >= 0")):
        own.write_text(text + "\n")
        result = run("--model", "Qwen3-8B", "--prices", own)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
        assert "prices.yaml" in result.output.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "Llama-2-7B", "--workload", "azure-con"), "azure-con"),
        (("--model", "Llama-2-7B", "--workload", "10,20,30"), "prompt,output"),
        (("--model", "Llama-2-7B", "--workload", "4000,2000"), "exceed the 4096"),
        (
            ("--model", "Llama-2-70B", "--tensor-parallel", "1"),
            "does not fit",
        ),
        (("--model", "Llama-2-7B", "--tpot-ms", "2"), "a step of one token takes"),
    ],
)
def test_what_cannot_be_planned_is_told_in_one_line(run, arguments, message):
    result = run("--device", "A100-80GB", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


SHARING = """
name: documents
description: Questions about a few documents.
family: stationary
device: A100-80GB
model: Llama-3-8B
workload:
  phases:
    - duration_s: 300
      arrivals: {kind: poisson, rate_per_s: 2.0}
      lengths: {kind: fixed, prompt_tokens: 2100, output_tokens: 40}
  sharing:
    levels: [{tokens: 2000, kinds: 20}]
"""


def test_what_a_cache_finds_is_planned_with_and_told(run, tmp_path):
    (tmp_path / "documents.yaml").write_text(SHARING)
    asked = ("--device", "A100-80GB", "--model", "Llama-3-8B", "--tensor-parallel", "1", "--dtype", "fp16")
    asked += ("--workload", tmp_path / "documents.yaml", "--json")
    on, off = (run(*asked, f"--{switch}") for switch in ("prefix-cache", "no-prefix-cache"))
    assert on.exit_code == off.exit_code == 0, on.output + off.output
    with_cache, without = json.loads(on.stdout), json.loads(off.stdout)
    assert with_cache["prefix_hit_rate"] > 0.8
    planned = next(one for one in with_cache["simulated"] if one["rate_per_s"] == with_cache["rate_per_s"])
    assert planned["prefix_hit_rate"] > 0.6
    assert with_cache["closed_form_per_s"] > 1.5 * without["closed_form_per_s"]
    assert with_cache["rate_per_s"] > 1.5 * without["rate_per_s"]
    assert "prefix_hit_rate" not in without
    assert all(one["prefix_hit_rate"] == 0 for one in without["simulated"])
    assert "prefix cache" in run(*asked[:-1], "--prefix-cache").output


def test_a_cache_for_load_of_which_nothing_is_known_to_be_in_common_is_refused(run):
    result = run("--device", "A100-80GB", "--model", "Llama-3-8B", "--workload", "512,128", "--prefix-cache")
    assert result.exit_code == 2
    assert "nothing is known that prompts of 512,128 have in common" in result.output


def test_a_trace_is_planned_for_with_its_block_hashes(run, tmp_path):
    trace = tmp_path / "mooncake.jsonl"
    lines = [
        {"timestamp": 500 * k, "input_length": 1100, "output_length": 20, "hash_ids": [k % 3, 100 + k % 3, 1000 + k]}
        for k in range(60)
    ]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = ("--device", "A100-80GB", "--model", "Llama-3-8B", "--tensor-parallel", "1", "--dtype", "fp16")
    result = run(*asked, "--workload", trace, "--prefix-cache", "--json")
    assert result.exit_code == 0, result.output
    assert 0.7 < json.loads(result.stdout)["prefix_hit_rate"] < 0.95


SHOWING = """
name: showing
description: Half of the requests show an image.
family: stationary
device: A100-80GB
model: Llama-2-7B
workload:
  phases:
    - duration_s: 300
      arrivals: {{kind: poisson, rate_per_s: 4.0}}
      lengths: {{kind: azure-conv, max_prompt_tokens: 2000, max_output_tokens: 500}}
  images: {{share: {share}, sizes: {{224: 1, 336: 2, 448: 1}}, different: 1000}}
engine:
  vision: {{tower: internvit-6b}}
"""


@pytest.mark.parametrize(("chip", "served"), [("A100-80GB", "Llama-2-7B"), ("H100-80GB", "Llama-3.1-8B")])
def test_capacity_with_images_and_its_own_simulation_agree_within_a_quarter(chip, served, tmp_path):
    place, held = (device(chip), model(served)), []
    for share in (0.0, 0.3, 1.0):
        file = tmp_path / f"{share}.yaml"
        file.write_text(SHOWING.format(share=share))
        load = find_load(str(file), *place, 1)
        caches = {"shared": load.shared, "prefix_cache": load.prefix_cache, "vision": load.vision}
        question = Question(*place, 1, "fp16", "showing", load.draw, SLO(2000, 100), 0.95, **caches)
        assert question.image_share == pytest.approx(share, abs=0.05)
        proposed = question.plan()
        found = find_capacity(question, proposed, range(1), 150.0)
        assert 0.75 < proposed.rate_per_s / found.plan.rate_per_s < 1.1
        held.append(found.plan.rate_per_s)
    assert held[0] > 1.2 * held[1] > 1.2 * held[2]


def test_images_are_planned_with_and_told(run, tmp_path):
    (tmp_path / "showing.yaml").write_text(SHOWING.format(share=0.5))
    asked = ("--device", "A100-80GB", "--model", "Llama-2-7B", "--tensor-parallel", "1", "--dtype", "fp16")
    asked += ("--workload", tmp_path / "showing.yaml")
    large, small = (json.loads(run(*asked, *more, "--json").stdout) for more in ((), ("--tower", "clip-vit-l14")))
    assert large["tower"] == "internvit-6b"
    assert large["image_share"] == pytest.approx(0.5, abs=0.05)
    assert large["encode_ms"] > 3 * small["encode_ms"] > 0
    assert large["rate_per_s"] < small["rate_per_s"]
    assert any(0 < one["image_hit_rate"] < 1 for one in large["simulated"])
    told = " ".join(run(*asked).output.split())
    assert "internvit-6b takes" in told
    assert "11.0 GB of internvit-6b" in told


def test_a_tower_for_load_without_images_and_an_unknown_one_are_refused(run):
    asked = ("--device", "A100-80GB", "--model", "Llama-2-7B", "--workload", "512,128", "--tower")
    assert "no request of 512,128 has an image" in " ".join(run(*asked, "clip-vit-l14").output.split())
    assert "clip-vit-l14" in run(*asked, "clip-vit-l15").output

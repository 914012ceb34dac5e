"""The room of the real servers: its parts, and a short form of its measurement where the servers have been built."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
ROOM = ROOT / "benchmarks" / "real"
REAL = ROOT / ".real"


@pytest.fixture
def room(monkeypatch):
    """The room's modules can be imported."""
    monkeypatch.syspath_prepend(str(ROOM))


def test_what_is_sent_has_the_rate_and_the_lengths_that_are_said(room):
    from loads import CAPACITY_PER_S, PROMISE, requests_of

    requests = requests_of("vllm", 2.0, 3600.0, seed=1)
    assert len(requests) / 3600.0 == pytest.approx(2.0 * CAPACITY_PER_S["vllm"], rel=0.05)
    assert np.mean(requests.prompt_tokens) == pytest.approx(116, abs=6)
    assert np.mean(requests.output_tokens) == pytest.approx(47, abs=3)
    assert set(np.asarray(requests.ttft_target_ms)) == {PROMISE.ttft_ms}


def test_a_part_that_was_built_is_not_built_again(room, tmp_path, monkeypatch):
    import build

    made = []
    monkeypatch.setattr(build, "build_vllm", lambda into, version: made.append(f"vllm {version}"))
    for part in ("build_gguf", "build_model", "build_shallow", "build_shallow_gguf"):
        monkeypatch.setattr(build, part, lambda into, part=part: made.append(part))
    monkeypatch.setattr(build, "build_environment", lambda into, *packages: made.extend(packages))
    build.build(tmp_path, "0.32.0")
    whole = list(made)
    assert whole[0] == "vllm 0.32.0"
    build.build(tmp_path, "0.32.0")
    assert made == whole
    build.build(tmp_path, "0.31.0")
    assert made == [*whole, "vllm 0.31.0"]


def run_of(way, tuner, load, repeat, goodput):
    """A run as the file of runs has it."""
    times = dict.fromkeys(("ttft_p95_ms", "tpot_p95_ms", "refusal_ms_p95"), 100.0)
    shares = {
        "goodput_fraction": goodput,
        "slo_attainment": goodput,
        "refused_fraction": 1 - goodput,
        "ended_failed": 0,
    }
    busy = {"load_average_before": 1.0, "load_average": 2.5}
    known = {"server": "vllm", "version": "0.32.0", "model": "a model"}
    return {"way": way, "tuner": tuner, "load": load, "repeat": repeat, **known, **times, **shares, **busy}


def test_the_table_tells_means_intervals_and_how_busy_the_machine_was(room, tmp_path, capsys):
    import table

    runs = [run_of("alone", "", 2.0, repeat, 0.002) for repeat in range(2)]
    runs += [run_of("gateway", "guarded-adaptive", 2.0, repeat, share) for repeat, share in enumerate((0.6, 0.7, 0.8))]
    runs += [run_of("gateway", "guarded-adaptive", 0.5, 0, 0.995), run_of("gateway", "model-based", 2.0, 0, 0.69)]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
    table.main(tmp_path)
    told = capsys.readouterr().out
    assert "| gateway guarded-adaptive | 2 | 3 | 70.0 ± 25 | " in told  # t(2) 4.30 x 0.1 / sqrt(3)
    assert "| 1.0-2.5 |" in told
    assert told.splitlines()[-1] == (
        "real: vllm 0.32.0 at 2x alone 0.2 % gateway 70.0 % model-based 69.0 %, at 0.5x gateway 99.5 %"
    )
    assert (tmp_path / "vllm.svg").stat().st_size > 1000


PARTS = {"vllm": ["vllm-*.done", "smollm2.done"], "llama.cpp": ["xllamacpp-*.done", "gguf-shallow.done"]}
"""What `benchmarks/real/build.py` leaves behind for each server."""


@pytest.mark.real
@pytest.mark.parametrize("server", PARTS)
def test_a_tuner_keeps_promises_that_a_real_server_breaks_at_twice_its_capacity(server, tmp_path):
    if not all(any(REAL.glob(part)) for part in PARTS[server]):
        pytest.skip(f"no {server} in {REAL.name}; python benchmarks/real/build.py")
    command = [sys.executable, str(ROOM / "run.py"), "--real", str(REAL), "--out", str(tmp_path), "--servers", server]
    asked = "--ways alone gateway --tuners guarded-default --loads 2 --repeats 1 --seconds 45"
    subprocess.run([*command, *asked.split()], check=True, timeout=1500)
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    goodput = {run["way"]: run["goodput_fraction"] for run in runs}
    assert set(goodput) == {"alone", "gateway"}
    assert goodput["gateway"] > goodput["alone"] + 0.2
    assert sum(run["ended_failed"] for run in runs) == 0

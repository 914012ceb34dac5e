"""The check that needs a GPU, on a processor with small shapes: every part runs and tells figures."""

import json
import runpy
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_check.py"


def checked(out, *arguments):
    main = runpy.run_path(str(SCRIPT))["main"]
    return main(["--device", "cpu", "--small", "--threads", "1", "--out", str(out), *arguments])


def test_parts_are_told_in_rows_and_written_with_their_origin(tmp_path):
    out = tmp_path / "check.json"
    told = checked(out, "--parts", "floors", "telemetry", "overload")
    written = json.loads(out.read_text())
    assert written["parts"].keys() == {"floors", "telemetry", "overload"}
    assert not any("failed" in part for part in written["parts"].values())
    assert all(step["ms"] > 0 for step in written["parts"]["floors"]["steps"])
    assert {step["tokens"] for step in written["parts"]["floors"]["steps"]} == {1, 64, 256}
    assert written["parts"]["telemetry"]["tokens"] > 0
    assert 0.0 <= written["parts"]["overload"]["guarded-adaptive"]["goodput_fraction"] <= 1.0
    assert {part for part, _, _ in told["rows"]} == {"load", "decode", "prefill", "telemetry", "overload"}
    assert {"git_revision", "seed", "versions"} <= written.keys()


def test_a_part_that_does_not_fit_into_the_time_is_left_out_and_one_that_fails_stops_no_other(tmp_path):
    told = checked(tmp_path / "check.json", "--minutes", "0", "--parts", "floors", "overload")
    assert told["parts"] == {}
    assert [what for _, what, _ in told["rows"]] == ["tiny-llama", "left out", "left out"]

    check = runpy.run_path(str(SCRIPT))["Check"]("cpu", "tiny-llama", "float32", (), (), 1, float("inf"))
    check.part("broken", 0, lambda check: 1 / 0)
    check.part("whole", 0, lambda check: {"figure": 1})
    assert check.rows == [("broken", "failed", "ZeroDivisionError: division by zero")]
    assert check.figures["whole"]["figure"] == 1

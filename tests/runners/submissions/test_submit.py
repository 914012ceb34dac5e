"""A submission is one record that can be computed again, adds up, and says what an environment would."""

import json

import gymnasium
import numpy as np
import pytest
from policy_samples import make_description, make_policy_bytes
from typer.testing import CliRunner

from batchpilot.configs.seeds import suite_seeds
from batchpilot.envs import env_id
from batchpilot.envs.registration import VERSION
from batchpilot.runners.main import app
from batchpilot.runners.submissions.judging import policy_behind
from batchpilot.runners.submissions.page import read_records, standings
from batchpilot.runners.submissions.record import Record, figures_of, read_record
from batchpilot.runners.submissions.record import test_set_of as hash_of
from batchpilot.tuners.policy import read_policy

QUICK = ["--suite", "quick", "--seeds", "1"]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def submitted(tmp_path_factory):
    """A policy's record and those of baselines, on the quick suite at one seed."""
    folder = tmp_path_factory.mktemp("submissions")
    policy = folder / "mine.onnx"
    policy.write_bytes(make_policy_bytes(make_description("batch")))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for strategy, *options in ([policy], ["static-8", "--track", "batch"], ["static-default", "--track", "limits"]):
            done = run("submit", strategy, *options, *QUICK)
            assert done.exit_code == 0, done.output
    return folder


def test_equal_submissions_are_equal_bytes_and_none_is_overwritten_untold(submitted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = submitted / "leaderboard/records/batch-quick-mine.json"
    again = run("submit", submitted / "mine.onnx", *QUICK, "--out", "again.json")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again.json").read_bytes() == first.read_bytes()
    refused = run("submit", submitted / "mine.onnx", *QUICK, "--out", "again.json")
    assert refused.exit_code == 2
    assert "--overwrite" in refused.output


def test_a_record_says_where_it_comes_from(submitted):
    record = read_record(submitted / "leaderboard/records/batch-quick-mine.json")
    assert record.id == env_id("batch", "quick")
    assert len(record.sha256) == 64
    assert set(record.seeds) <= set(suite_seeds("quick"))
    assert {"python", "numpy", "numba"} <= {*record.versions}
    assert str(submitted) not in record.text()


def test_a_record_scores_as_the_environment_of_its_id_does(submitted):
    record = read_record(submitted / "leaderboard/records/limits-quick-static-default.json")
    env = gymnasium.make(record.id).unwrapped
    for name, scores in record.scenarios.items():
        env.reset(seed=0, options={"scenario": name, "workload_seed": record.seeds[0]})
        hold, ended = env.table.hold(env.table.start(100.0)), False
        while not ended:
            *_, terminated, truncated, info = env.step(hold)
            ended = terminated or truncated
        told = info["episode"]
        assert told["goodput_fraction"] == pytest.approx(scores.goodput[0])
        assert told["references"] == {"static-default": scores.default[0], "static-best": scores.hindsight[0]}
        assert told["normalised_score"] == pytest.approx(scores.normalised[0], nan_ok=True)
    assert np.isfinite(record.scenarios["quick-chat"].normalised[0])


def test_a_record_whose_figures_do_not_follow_from_its_scores_is_refused(submitted, tmp_path):
    data = json.loads((submitted / "leaderboard/records/batch-quick-mine.json").read_text())
    path = tmp_path / "better.json"
    for place, value, message in (
        (("figures", "mean_goodput"), 0.999, "do not follow"),
        (("scenarios", "quick-chat", "goodput"), [0.999], "do not follow"),
        (("scenarios", "quick-chat", "default"), [0.1], "test_set"),
        (("id",), env_id("limits", "quick"), "are those of batchpilot/batch-quick-v"),
        (("id",), env_id("batch", "quick", VERSION + 1), "are those of"),
        (("scenarios", "quick-chat", "goodput"), [0.5, 0.5], "one figure each"),
        (("nme",), "x", "unknown key"),
    ):
        changed = json.loads(json.dumps(data))
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        path.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message) as told:
            read_record(path)
        assert "better.json" in str(told.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", "no json", "3"])
def test_what_is_no_record_is_refused_by_name(tmp_path, content):
    (tmp_path / "odd.json").write_text(content)
    told = run("standings", tmp_path, "--out", tmp_path / "page.md")
    assert told.exit_code == 2
    assert "odd.json" in told.output.replace("\n", "")
    assert not (tmp_path / "page.md").exists()


def test_a_folder_without_records_is_refused(tmp_path):
    assert "holds no record" in run("standings", tmp_path).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["static-8"], "say in which: --track"),
        (["static-8", "--track", "limit"], "did you mean 'limits'"),
        (["static-best", "--track", "limits"], "is a reference"),
        (["no.onnx"], "no.onnx"),
        (["static-9", "--track", "limits"], "unknown tuner"),
        (["policy-limits", "--track", "guarded"], "competes in track 'limits'"),
        (["policy-limits", "--suite", "quick-torch"], "unknown suite"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_a_reason(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    told = run("submit", *arguments)
    assert told.exit_code == 2
    assert message in told.output
    assert not (tmp_path / "leaderboard").exists()


def test_a_damaged_policy_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = bytearray(make_policy_bytes())
    data[100] ^= 1
    (tmp_path / "mine.onnx").write_bytes(data)
    told = run("submit", "mine.onnx")
    assert told.exit_code == 2
    assert "cannot be loaded as a policy" in told.output
    assert not (tmp_path / "reports").exists()


def test_the_policy_behind_a_strategy_is_told_by_its_hash(tmp_path):
    own = tmp_path / "mine.onnx"
    own.write_bytes(make_policy_bytes())
    assert policy_behind(f"policy:{own}").digest == read_policy(own).digest
    limits, guarded = (policy_behind(f"policy-{track}") for track in ("limits", "guarded"))
    assert (limits.description.track, guarded.description.track) == ("limits", "guarded")
    assert limits.digest != guarded.digest
    assert policy_behind("model-based") is None
    assert policy_behind("policy-of-nobody") is None


def renamed(record: Record, name: str, gain: float = 0.0) -> Record:
    """The record of somebody who serves so much more everywhere."""
    data = record.model_dump()
    for one in data["scenarios"].values():
        one["goodput"] = [share + gain for share in one["goodput"]]
    scenarios = {key: type(record.scenarios[key])(**one) for key, one in data["scenarios"].items()}
    return Record.model_validate(data | {"name": name, "figures": figures_of(scenarios).model_dump()})


def test_records_of_earlier_scenarios_stand_behind_with_what_it_is_now(submitted):
    mine, static, _ = read_records(submitted / "leaderboard/records")
    earlier = Record.model_validate(static.model_dump() | {"id": env_id(static.track, "quick", VERSION - 1)})
    page = standings([earlier, mine])
    old, now = (page.index(f"## `{one}`") for one in (earlier.id, mine.id))
    assert now < old
    assert f"The scenarios have changed since: it is `{mine.id}` now" in page[old:]
    assert "changed since" not in page[:old]


def test_the_page_ranks_by_score_and_compares_only_equal_test_sets(submitted):
    folder = submitted / "leaderboard/records"
    mine, static, _ = read_records(folder)
    page = standings([static, renamed(static, "better", 0.01), renamed(static, "worse", -0.01), mine])
    assert page.index("| better |") < page.index("| static-8 |") < page.index("| worse |")
    assert page.count("## `batchpilot/") == 1
    data = static.model_dump()
    fewer = {key: data["scenarios"][key] for key in ["quick-chat", "quick-code"]}
    scenarios = {key: type(static.scenarios[key])(**one) for key, one in fewer.items()}
    other = Record.model_validate(
        data
        | {
            "scenarios": fewer,
            "figures": figures_of(scenarios).model_dump(),
            "test_set": hash_of("batch", static.seeds, scenarios),
        }
    )
    assert standings([static, other]).count("## `batchpilot/") == 2


def test_a_name_cannot_break_the_page(submitted):
    record = read_record(submitted / "leaderboard/records/batch-quick-mine.json")
    page = standings([renamed(record, "a | b <script> [x](y)")])
    assert "<script>" not in page
    rows = [line for line in page.splitlines() if "script" in line]
    assert rows
    assert all(line.replace("\\|", "").count("|") in (9, 5) for line in rows)


def test_two_records_of_one_name_are_refused(submitted, tmp_path):
    record = (submitted / "leaderboard/records/batch-quick-mine.json").read_bytes()
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_bytes(record)
    with pytest.raises(ValueError, match="two records"):
        read_records(tmp_path)

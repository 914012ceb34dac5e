"""A leaderboard's cells: same numbers however they are run, nothing lost when stopped."""

import math
from dataclasses import replace

import pytest

from batchpilot.baselines.references.static_best import best_static, best_statics, goodput_of, track_grid
from batchpilot.configs.scenario import scenario
from batchpilot.core import Limits
from batchpilot.envs import prepare
from batchpilot.runners.leaderboard import evaluation, jobs
from batchpilot.runners.leaderboard.board import Leaderboard, run_leaderboard
from batchpilot.runners.leaderboard.evaluation import Cell, Task, run_cell

TUNERS = ("static-8", "static-default", "dynamic", "guarded-default")


def numbers(rows):
    """Rows without what differs between equal runs: wall time, and a revision that somebody may change meanwhile."""
    left_out = ("tuner_overhead", "git_revision")
    return repr([{name: value for name, value in row.items() if name not in left_out} for row in rows])


def same(first, second):
    return numbers(first) == numbers(second)


@pytest.fixture
def board(tiny):
    return Leaderboard((tiny,), "batch", TUNERS, seeds=3)


def test_processes_do_not_change_a_number(board, tmp_path):
    one = run_leaderboard(board, tmp_path / "one", jobs=1)
    two = run_leaderboard(board, tmp_path / "two", jobs=2)
    assert same(one.rows, two.rows)
    assert len(one.rows) == 3 * len(TUNERS)


def test_every_strategy_of_a_cell_serves_the_same_requests(board, tmp_path):
    rows = run_leaderboard(board, tmp_path).rows
    assert len({row["requests"] for row in rows if row["seed"] == 1}) == 1
    assert len({row["requests"] for row in rows}) > 1


def test_a_stopped_run_resumes_where_it_was(board, tmp_path, monkeypatch):
    whole = run_leaderboard(board, tmp_path / "whole")
    calls = []

    def stop_after_one(task):
        if calls:
            raise KeyboardInterrupt
        calls.append(task.seed)
        return run_cell(task)

    monkeypatch.setattr(evaluation, "run_cell", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        run_leaderboard(board, tmp_path / "stopped")
    ran = []
    monkeypatch.setattr(evaluation, "run_cell", lambda task: ran.append(task.seed) or run_cell(task))
    resumed = run_leaderboard(board, tmp_path / "stopped", resume=True)
    assert calls == [0]
    assert ran == [1, 2]
    assert same(resumed.rows, whole.rows)
    assert (
        resumed.rows[: len(TUNERS)]
        == Cell.from_json(next((tmp_path / "stopped/cells").glob("tiny--0-*")).read_text()).rows
    )


def test_a_cell_of_another_configuration_is_not_resumed(board, tmp_path):
    run_leaderboard(board, tmp_path)
    fresh = []
    other = replace(board, tuners=("static-8",))
    run_leaderboard(other, tmp_path, resume=True, on_done=lambda task, kept: fresh.append(not kept))
    assert fresh == [True] * 3


def test_rows_say_where_they_come_from(board, tmp_path):
    for row in run_leaderboard(board, tmp_path).rows:
        assert row["config_hash"]
        assert row["git_revision"]
        assert "numba=" in row["versions"]
        assert row["latency"].startswith("estimated")
    assert (tmp_path / "config.json").exists()


def test_a_cell_survives_its_file(tiny):
    cell = run_cell(Task(tiny, 0, "batch", ("static-8", "aimd")))
    copy = Cell.from_json(cell.to_json())
    assert repr(copy) == repr(cell)
    with pytest.raises(ValueError, match="not a whole leaderboard cell"):
        Cell.from_json("[]")


@pytest.mark.parametrize("damage", [lambda text: text[:100], lambda text: b"", lambda text: bytes(len(text))])
def test_a_damaged_cell_is_named_and_run_anew(board, tmp_path, damage):
    whole = run_leaderboard(board, tmp_path)
    path = jobs.cell_path(tmp_path, board.tasks()[1])
    path.write_bytes(damage(path.read_bytes()))
    ran, told = [], []
    again = run_leaderboard(
        board, tmp_path, resume=True, on_done=lambda task, kept: ran.append(kept), on_damage=told.append
    )
    assert same(again.rows, whole.rows)
    assert sorted(ran) == [False, True, True]
    assert [str(path) in text for text in told] == [True]


def test_a_cell_with_one_figure_changed_is_damaged(tiny):
    text = run_cell(Task(tiny, 0, "batch", ("static-8",))).to_json()
    changed = text.replace('"seed":0', '"seed":1')
    assert changed != text
    with pytest.raises(ValueError, match="not a whole"):
        Cell.from_json(changed)


def test_an_undefined_figure_is_null_in_a_cells_file_and_nan_again(tiny):
    cell = run_cell(Task(tiny, 0, "batch", ("static-8",)))
    cell.rows[0]["e2e_p95_ms"] = math.nan
    text = cell.to_json()
    assert "NaN" not in text
    assert math.isnan(Cell.from_json(text).rows[0]["e2e_p95_ms"])


def test_static_best_is_the_best_of_its_grid_on_the_same_requests(tiny):
    run = prepare(tiny, 0)
    grid = track_grid("batch", 100.0)
    limits, goodput = best_static(run, grid)
    assert goodput == max(goodput_of(run, setting) for setting in grid) == goodput_of(run, limits)
    with pytest.raises(ValueError, match="no settings"):
        best_static(run, [])


@pytest.mark.parametrize("name", ["quick-burst", "quick-night", "closed-loop-8", "held-slo-mix-h100"])
def test_settings_that_are_given_up_early_were_not_among_the_best(name):
    run = prepare(scenario(name).model_copy(update={"duration_s": 30.0}), 1)
    grid = track_grid("guarded", 100.0)[::9]
    shares = [goodput_of(run, setting) for setting in grid]
    order = sorted(range(len(grid)), key=lambda k: -shares[k])
    assert best_statics(run, grid, 3) == ([grid[k] for k in order[:3]], max(shares))
    assert best_static(run, grid) == (grid[order[0]], max(shares))


def test_grids_are_nested_so_that_a_larger_track_never_loses():
    batch, limits, guarded = (set(track_grid(track, 100.0)) for track in ("batch", "limits", "guarded"))
    assert batch < limits < guarded
    assert all(setting.step_target_ms is None for setting in track_grid("guarded", math.inf))


def test_the_promise_of_the_guard_is_kept_in_overload(tiny):
    # The untuned rule of DESIGN's table against what servers ship, on the same requests.
    run = prepare(tiny.model_copy(update={"model": "Llama-3-8B"}), 0)
    shipped = goodput_of(run, Limits(256, 2048))
    guarded = goodput_of(run, Limits(256, 2048, step_target_ms=100.0, ttft_guard=1.0, discipline="spf"))
    assert guarded > 3 * shipped


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"track": "limit"}, "did you mean 'limits'"),
        ({"tuners": ("dynamik",)}, "did you mean 'dynamic'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"scenarios": ()}, "no scenarios"),
    ],
)
def test_a_mistake_is_named(board, change, message):
    with pytest.raises(ValueError, match=message):
        replace(board, **change)

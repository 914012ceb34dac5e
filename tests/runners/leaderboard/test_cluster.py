"""A leaderboard on a Ray cluster gives the numbers of this machine."""

import sys

import pytest

from batchpilot.runners.leaderboard.board import Leaderboard, run_leaderboard


def numbers(rows):
    """Rows without what differs between equal runs: wall time, and a revision that somebody may change meanwhile."""
    left_out = ("tuner_overhead", "git_revision")
    return repr([{name: value for name, value in row.items() if name not in left_out} for row in rows])


@pytest.fixture
def board(tiny):
    return Leaderboard((tiny,), "batch", ("static-8", "dynamic"), seeds=3)


def test_a_cluster_without_ray_says_what_to_install(board, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"a cluster needs the package ray,.*batchpilot\[ray\]"):
        run_leaderboard(board, tmp_path, cluster="local")


def test_a_cluster_changes_no_number_and_keeps_every_cell(board, tmp_path):
    pytest.importorskip("ray")
    here = run_leaderboard(board, tmp_path / "here")
    there = run_leaderboard(board, tmp_path / "there", jobs=2, cluster="local")
    assert numbers(there.rows) == numbers(here.rows)
    assert len(list((tmp_path / "there/cells").iterdir())) == 3


def test_a_cluster_that_does_not_answer_is_told(board, tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match=r"no Ray cluster at 'ray://127.0.0.1:1'"):
        run_leaderboard(board, tmp_path, cluster="ray://127.0.0.1:1")

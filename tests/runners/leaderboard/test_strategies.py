"""Strategies by the name typed: references, registered tuners and files of the user's own."""

import re

import pytest

from batchpilot.baselines import SERVER_DEFAULT, Setting
from batchpilot.baselines.references.static_suite import static_suite
from batchpilot.core import Limits
from batchpilot.runners.leaderboard.board import TRACK_TUNERS, Leaderboard, run_leaderboard
from batchpilot.runners.leaderboard.strategies import check_strategies, content_hash, label, make_strategy

OWN = """
from batchpilot import Limits, Tuner

class Fixed(Tuner):
    def __init__(self, setting=None):
        self.limits = Limits(SIZE, 2048) if setting is None else setting.limits(SIZE)

    def ask(self):
        return self.limits

    def tell(self, metrics):
        pass

    def reset(self, seed=None):
        pass

    def status(self):
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Bare(Fixed):
    def __init__(self):
        super().__init__()

class Needy(Fixed):
    def __init__(self, size):
        super().__init__()

class Half(Tuner):
    def ask(self):
        return Limits(1)

def helper():
    pass
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "my_tuner.py"
    path.write_text(OWN.replace("SIZE", "24"))
    return path


def test_a_class_with_a_setting_gets_it_and_one_without_is_built_plainly(own):
    setting = Setting(base=Limits(1, 777))
    assert make_strategy(f"{own}:Fixed", setting).ask() == Limits(24, 777)
    assert make_strategy(f"{own}:Bare", setting).ask() == Limits(24, 2048)


def test_a_tuner_of_ones_own_competes_under_its_short_name(own, tiny, tmp_path):
    board = Leaderboard((tiny,), "batch", (f"{own}:Fixed", "static-16"), seeds=1)
    outcome = run_leaderboard(board, tmp_path / "out")
    assert [row["tuner"] for row in outcome.rows] == ["my_tuner.py:Fixed", "static-16"]
    assert set(outcome.curves["tiny", "my_tuner.py:Fixed"]["batch_size"]) == {24.0}


FAULTY = """

class Late(Fixed):
    name = "late"
    heard = 0

    def tell(self, metrics):
        self.heard += 1
        if self.heard > 3:
            raise KeyError("boom")


class Wrong(Fixed):
    def ask(self):
        return "sixteen"


class Named(Fixed):
    name = "my best"


class Masked(Fixed):
    name = "static-best"
"""


@pytest.mark.parametrize(
    ("tuner", "told"),
    [("Late", r"Late raised KeyError: 'boom' \(.*my_tuner.py, line \d+"), ("Wrong", "Wrong raised")],
)
def test_a_tuner_that_raises_is_named_and_the_board_goes_on(own, tiny, tmp_path, tuner, told):
    own.write_text(own.read_text() + FAULTY)
    board = Leaderboard((tiny,), "batch", (f"{own}:{tuner}", "static-16"), seeds=2)
    outcome = run_leaderboard(board, tmp_path / "out")
    assert [row["tuner"] for row in outcome.rows] == ["static-16", "static-16"]
    assert set(outcome.curves) == {("tiny", "static-16")}
    (error,) = outcome.failed.values()
    assert re.search(told, error)
    assert "on tiny at seed 0" in error
    assert run_leaderboard(board, tmp_path / "out", resume=True).failed == outcome.failed


def test_where_every_tuner_raises_there_is_no_board_but_their_errors(own, tiny, tmp_path):
    own.write_text(own.read_text() + FAULTY)
    with pytest.raises(ValueError, match=r"no strategy got through: my_tuner.py:Late raised KeyError"):
        run_leaderboard(Leaderboard((tiny,), "batch", (f"{own}:Late",), seeds=1), tmp_path / "out")


def test_a_tuner_is_called_what_it_calls_itself(own, tiny, tmp_path):
    own.write_text(own.read_text() + FAULTY)
    outcome = run_leaderboard(Leaderboard((tiny,), "batch", (f"{own}:Named",), seeds=1), tmp_path / "out")
    assert [row["tuner"] for row in outcome.rows] == ["my best"]
    with pytest.raises(ValueError, match="calls itself 'static-best', which is another's"):
        check_strategies([f"{own}:Masked"])


def test_a_changed_file_is_not_resumed(own, tiny):
    board = Leaderboard((tiny,), "batch", (f"{own}:Fixed",), seeds=1)
    before = board.tasks()[0].fingerprint
    assert board.tasks()[0].fingerprint == before
    own.write_text(OWN.replace("SIZE", "25"))
    assert board.tasks()[0].fingerprint != before
    assert content_hash("static-8") == ""


def test_a_file_may_import_its_neighbours(own):
    (own.parent / "beside_it.py").write_text("SIZE = 31\n")
    own.write_text("from beside_it import SIZE\n" + OWN)
    assert make_strategy(f"{own}:Fixed", Setting()).ask().batch_size == 31


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{folder}/other.py:Fixed", "there is no file .*other.py'; a tuner of your own is named FILE.py:CLASS"),
        ("{own}:Fixd", "unknown tuner in .*my_tuner.py 'Fixd'; did you mean 'Fixed'"),
        ("{own}", r"unknown tuner in .*my_tuner.py '' \(known: Fixed, Bare, Needy, Half\)"),
        ("{own}:helper", "my_tuner.py:helper is no tuner: a class derived from batchpilot.Tuner is needed"),
        ("{own}:Limits", "is no tuner"),
        ("{own}:Half", "cannot be built: it lacks load_state_dict, reset, state_dict, status, tell"),
        ("{own}:Needy", "could not be built .*missing 1 required .*; its constructor takes `setting`, or nothing"),
        ("policy:{folder}/none.onnx", "there is no file .*none.onnx"),
        ("dynamc", "did you mean 'dynamic'.*your own is FILE.py:CLASS or policy:FILE.onnx"),
    ],
)
def test_a_wrong_name_is_told_before_anything_runs(own, tiny, name, message):
    with pytest.raises(ValueError, match=message):
        Leaderboard((tiny,), tuners=(name.format(own=own, folder=own.parent),))


def test_a_file_that_cannot_be_executed_says_why(own):
    own.write_text("import batchpilto\n")
    with pytest.raises(
        ValueError, match=r"my_tuner.py cannot be executed \(ModuleNotFoundError: No module named 'batch"
    ):
        check_strategies([f"{own}:Fixed"])


def test_two_files_of_one_name_are_refused(own, tmp_path):
    other = tmp_path / "elsewhere" / "my_tuner.py"
    other.parent.mkdir()
    other.write_text(own.read_text())
    with pytest.raises(ValueError, match=r"two strategies would both be called my_tuner.py:Fixed"):
        check_strategies([f"{own}:Fixed", f"{other}:Fixed"])
    assert label(f"{other}:Bare") == "my_tuner.py:Bare"
    assert label("policy:some/where/best.onnx") == "policy:best.onnx"


def test_default_stands_for_the_tracks_own_strategies(tiny):
    board = Leaderboard((tiny,), "limits", ("default", "static-64", "static-8"))
    assert board.strategies == (*TRACK_TUNERS["limits"], "static-64")
    assert Leaderboard((tiny,), "limits").strategies == TRACK_TUNERS["limits"]


def test_references_run_beside_the_others_and_clairvoyant_is_the_best_of_them(tiny, tmp_path):
    names = ("static-best", "static-suite", "clairvoyant", "static-default")
    rows = run_leaderboard(Leaderboard((tiny,), "batch", names, seeds=1), tmp_path).rows
    share = {row["tuner"]: row["goodput_fraction"] for row in rows}
    assert share["clairvoyant"] >= share["static-best"] >= share["static-default"]
    assert static_suite("batch").token_budget == SERVER_DEFAULT.token_budget

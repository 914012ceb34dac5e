"""The leaderboard's page says what its records say."""

from pathlib import Path

from batchpilot.runners.submissions.page import read_records, standings

FOLDER = Path(__file__).parents[2] / "leaderboard"


def test_the_page_is_written_from_the_records_beside_it():
    assert (FOLDER / "README.md").read_text() == standings(read_records(FOLDER / "records"))


def test_every_record_was_judged_by_code_that_anybody_can_check_out():
    for record in read_records(FOLDER / "records"):
        assert not record.git_revision.endswith("-dirty")
        assert record.git_revision != "unknown"

"""Measured steps: what counts as one, what is left out, and how files of them are read."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.latency.fitting.measurement_files import read_measurements
from batchpilot.latency.fitting.observations import Observations

SPLITWISE = (
    "model,hardware,prompt_size,batch_size,token_size,prompt_time,token_time,tensor_parallel\n"
    "llama2-70b,a100-80gb,512,2,128,254.0,45.0,4\n"
    "llama2-70b,a100-80gb,1024,1,128,227.0,44.5,4\n"
    "llama2-70b,h100-80gb,512,2,128,103.0,30.0,4\n"
)


NAMES = ("batch_size", "tokens", "context_tokens", "latency_ms")
LAYOUTS = {
    "blank after comma": ", ",
    "aligned": "      ,",
    "both": " , ",
    "tab": "\t,",
    "no-break": "\u00a0,",
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("end", ["", " ", "\t", "\r"])
def test_blanks_beside_names_and_values_do_not_count(written, layout, end):
    between = LAYOUTS[layout]
    text = f"\ufeff{between.join(NAMES)}{end}\n{between.join(['4', '64', '500', '18.5'])}{end}\n"
    found = read_measurements(written(text), {"tokens": " tokens "}).observations
    assert [values.tolist() for values in (found.batch_size, found.tokens, found.context_tokens, found.latency_ms)] == [
        [4.0],
        [64.0],
        [500.0],
        [18.5],
    ]


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "steps.csv"
        path.write_text(text)
        return path

    return write


def test_preprocessing_drops_what_the_document_drops_and_says_how_many():
    steps = Observations.of(
        [1, 0, 4, 4, 4, 4, 4], [8, 8, 0, 8, 8, 8, math.nan], [20.0, 20.0, 20.0, 0.1, 500.0, 499.9, 20.0]
    )
    kept, dropped = steps.cleaned()
    assert kept.latency_ms.tolist() == [20.0, 499.9]
    assert (dropped.not_finite, dropped.empty, dropped.too_short, dropped.too_long) == (1, 2, 1, 1)
    assert str(dropped) == ("1 not finite, 2 without requests or tokens, 1 at or below 0.1 ms, 1 at or above 500 ms")


def test_bounds_of_preprocessing_can_be_moved():
    steps = Observations.of([1, 1], [4096, 8192], [970.0, 2330.0])
    assert len(steps.cleaned()[0]) == 0
    kept, dropped = steps.cleaned(highest_ms=60_000)
    assert len(kept) == 2
    assert (dropped.total, str(dropped)) == (0, "none")


@pytest.mark.parametrize("bounds", [(5, 5), (-1, 5), (math.nan, 5)])
def test_bounds_that_leave_nothing_are_refused(bounds):
    with pytest.raises(ValueError, match="latency bounds"):
        Observations.of([1], [1], [1]).cleaned(*bounds)


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=20))
def test_whatever_comes_in_what_remains_is_usable_and_everything_is_accounted_for(rows):
    columns = np.array(rows, dtype=float).reshape(-1, 4).T
    steps = Observations(*columns)
    kept, dropped = steps.cleaned()
    assert kept.usable
    assert len(kept) + dropped.total == len(steps)


def test_repeats_of_a_step_are_one_point():
    steps = Observations.of([1, 1, 2, 1], [8, 8, 8, 8], [10, 11, 12, 13], [0, 0, 0, 5])
    points = steps.points
    assert points[0] == points[1]
    assert len(set(points)) == 3


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (([1, 2], [1], [1, 2]), "differ in length"),
        (([[1, 2]], [[1, 2]], [[1, 2]]), "one-dimensional"),
        ((["x"], [1], [1]), "batch_size holds something that is not a number"),
    ],
)
def test_arrays_that_are_no_observations_are_refused(columns, says):
    with pytest.raises(ValueError, match=says):
        Observations.of(*columns)


def test_splitwise_rows_become_a_prefill_and_a_decode_step_each(written):
    file = read_measurements(written(SPLITWISE), select={"device": "A100 80GB"})
    steps = file.observations
    assert file.layout == "splitwise"
    assert file.labels == {"device": "a100-80gb", "model": "llama2-70b", "tensor_parallel": "4"}
    assert steps.batch_size.tolist() == [2, 2, 1, 1]
    assert steps.tokens.tolist() == [1024, 2, 1024, 1]
    assert steps.context_tokens.tolist() == [0, 2 * (512 + 64), 0, 1024 + 64]
    assert steps.latency_ms.tolist() == [254.0, 45.0, 227.0, 44.5]


def test_named_and_mapped_columns_read_alike(written):
    named = read_measurements(written("batch_size,tokens,latency_ms,context_tokens\n4,4,20.5,100\n8,8,21,\n"))
    columns = {"batch_size": "B", "tokens": "S", "latency_ms": "T", "context_tokens": "C"}
    mapped = read_measurements(written("B, S, T, C\n4,4,20.5,100\n8,8,21,\n"), columns)
    for steps in (named.observations, mapped.observations):
        assert steps.batch_size.tolist() == [4, 8]
        assert steps.context_tokens[0] == 100
        assert math.isnan(steps.context_tokens[1])


def test_context_may_be_missing(written):
    assert read_measurements(written("batch_size,tokens,latency_ms\n4,4,20\n")).observations.context_tokens == [0]


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("a,b\n1,2\n", {}, "no column for batch_size, tokens, latency_ms; the header holds a, b"),
        ("", {}, "header holds nothing"),
        ("batch_size,tokens,latency_ms\n", {}, "no measurements"),
        ("batch_size,tokens,latency_ms\n1,2,x\n", {}, "line 2: latency_ms is 'x'"),
        ("batch_size,tokens,latency\n1,2,3\n", {"columns": {"latency_ms": "latncy"}}, "did you mean 'latency'"),
        ("batch_size,tokens,latency_ms\n1,2,3\n", {"columns": {"token": "tokens"}}, "did you mean 'tokens'"),
        (SPLITWISE, {}, "differ in device"),
        (SPLITWISE, {"select": {"device": "a100-40gb"}}, "did you mean 'a100-80gb'"),
        (SPLITWISE, {"select": {"device": "a100-80gb", "tensor_parallel": "2"}}, "unknown tensor_parallel"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_refused_with_its_name(written, text, options, says):
    with pytest.raises(ValueError, match=says) as told:
        read_measurements(written(text), **options)
    if "token" not in options.get("columns", {}):
        assert "steps.csv" in str(told.value)


STEPS = "batch_size,tokens,latency_ms\n1,1,10\n2,2,11\n"


def test_blank_lines_count_in_the_line_that_is_named_and_nowhere_else(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text("\n" + STEPS.replace("2,2", "\n  \n2,2"))
    assert read_measurements(path).observations.tokens.tolist() == [1, 2]
    path.write_text("\n" + STEPS.replace("2,2", "\n\n2,x"))
    with pytest.raises(ValueError, match=r"steps\.csv, line 6: tokens is 'x'; expected a number"):
        read_measurements(path)


def test_a_row_of_more_fields_than_names_is_not_read_as_if_they_were_others(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text(STEPS + "4,1,024,12\n")
    with pytest.raises(ValueError, match=r"steps\.csv, line 4: found 4 fields; expected 3"):
        read_measurements(path)


def test_two_columns_of_one_name_are_not_chosen_from(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text("batch_size,tokens,latency_ms,tokens\n1,1,10,7\n")
    with pytest.raises(ValueError, match="2 columns are called 'tokens'; expected one of that name"):
        read_measurements(path)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_files_of_semicolons_or_tabs_are_read_too(tmp_path, separator):
    path = tmp_path / "steps.csv"
    rows = (["batch_size", "tokens", "latency_ms"], ["4", "128", "12.5"], ["8", "8", "9.5"])
    path.write_text("\ufeff\n" + "\n".join(separator.join(row) for row in rows) + "\n", encoding="utf-8")
    read = read_measurements(path).observations
    assert read.batch_size.tolist() == [4, 8]
    assert read.latency_ms.tolist() == [12.5, 9.5]


def test_a_number_with_an_underline_is_none(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text("batch_size,tokens,latency_ms\n4,1_024,12.5\n")
    with pytest.raises(ValueError, match=r"line 2: tokens is '1_024'; expected a number"):
        read_measurements(path)


def test_points_differ_where_steps_do_however_large_the_context():
    # Beside such a context what else differs is lost in the rounding of a sum.
    steps = Observations.of([1, 2, 1, 2], [4, 4, 4, 4], [10.0] * 4, [1e18] * 4)
    first, second, *repeated = steps.points.tolist()
    assert first != second
    assert repeated == [first, second]

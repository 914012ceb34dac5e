"""A trace file is known by its first lines, and what was guessed is said."""

import gzip

import numpy as np
import pytest
from trace_samples import SAMPLES

from batchpilot.workloads import TraceError, read_trace
from batchpilot.workloads.readers import guess_format


def guessed(tmp_path, text, columns=None, name="trace.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    guess = guess_format(path, columns)
    return read_trace(path, guess.format, **guess.options), guess


def holds_the_three_requests(table):
    np.testing.assert_allclose(table.arrival_ms, [0, 1500, 4000])
    assert table.prompt_tokens.tolist() == [374, 396, 879]
    assert table.output_tokens.tolist() == [44, 109, 55]
    return True


@pytest.mark.parametrize("name", SAMPLES)
def test_every_published_format_is_known(tmp_path, name):
    table, guess = guessed(tmp_path, SAMPLES[name])
    assert holds_the_three_requests(table)
    assert guess.format in (name, "azure2023")  # both years of Azure have one layout


def test_a_compressed_file_is_known(tmp_path):
    assert holds_the_three_requests(guessed(tmp_path, gzip.compress(SAMPLES["burstgpt"].encode()))[0])


def rows(first, second, third):
    return f"{first},374,44\n{second},396,109\n{third},879,55\n"


@pytest.mark.parametrize(
    ("header", "times", "unit"),
    [
        ("timestamp,input_tokens,output_tokens", (10, 11.5, 14), "s"),
        ("Arrival Time (ms),Prompt Tokens,Completion Tokens", (10, 1510, 4010), "ms"),
        ("startTimeMs,promptLen,outputLen", (10, 1510, 4010), "ms"),
        ("ts_us,isl,osl", (0, 1_500_000, 4_000_000), "us"),
        ("created_at,input_length,output_length", (1714557600, 1714557601.5, 1714557604), "s"),
        ("created_at,tokens_in,tokens_out", (1714557600000, 1714557601500, 1714557604000), "ms"),
        ("time,prompt,completion", (1714557600000000, 1714557601500000, 1714557604000000), "us"),
        ("time,prompt,completion", (1714557600000000000, 1714557601500000000, 1714557604000000000), "ns"),
        (
            "date,in_tokens,out_tokens",
            ("2024-05-01T10:00:00Z", "2024-05-01T10:00:01.5Z", "2024-05-01T10:00:04Z"),
            "date",
        ),
    ],
)
def test_columns_are_known_by_the_names_that_people_give_them(tmp_path, header, times, unit):
    table, guess = guessed(tmp_path, f"{header}\n{rows(*times)}")
    assert holds_the_three_requests(table)
    assert guess.options["time_unit"] == unit
    assert all(repr(name) in guess.why for name in header.split(","))


def test_what_was_said_is_not_guessed(tmp_path):
    text = "when,timestamp,a,b\n" + "".join(
        f"{t},0,{p},{o}\n" for t, p, o in ((0, 374, 44), (1.5, 396, 109), (4, 879, 55))
    )
    table, guess = guessed(tmp_path, text, {"arrival": "when", "prompt": "a", "output": "b"})
    assert holds_the_three_requests(table)
    assert guess.options["arrival_column"] == "when"
    with pytest.raises(
        TraceError, match=r"'when, timestamp, a, b'; which of them is prompt, output\? Say it by --columns"
    ):
        guessed(tmp_path, text)


def test_a_unit_that_was_said_wins_over_the_name_of_the_column(tmp_path):
    text = "timestamp,input_tokens,output_tokens\n" + rows(0, 1500, 4000)
    assert holds_the_three_requests(guessed(tmp_path, text, {"unit": "ms"})[0])


@pytest.mark.parametrize(
    ("text", "columns", "words"),
    [
        ("a,b\n1,2\n", {"arival": "a"}, "unknown key of columns 'arival'; did you mean 'arrival'"),
        ("timestamp,input_tokens,output_tokens\n0,1,1\n", {"unit": "h"}, "unknown time unit 'h'"),
        ("timestamp,input_tokens,output_tokens\n0,1,1\n", {"prompt": "inputs"}, "which of them is prompt"),
        ("", None, "which of them is arrival, prompt, output"),
        ('{"a": 1}\n', None, "found keys 'a'; expected those of format mooncake or weka"),
        ('timestamp,"input\n0,1\n', None, "quotes that close"),
    ],
)
def test_what_cannot_be_guessed_is_asked_for_in_words(tmp_path, text, columns, words):
    with pytest.raises(ValueError, match=words):
        guessed(tmp_path, text, columns)


@pytest.mark.parametrize(
    "text",
    [
        "{head},\n{a},374,44,\n{b},396,109,\n{c},879,55,\n",
        "{head}\n{a},374,44,\n{b},396,109,\n{c},879,55,\n",
        "{head}\n\n\n{a},374,44\n\n{b},396,109\n{c},879,55\n",
        "\n \n{head}\n{a},374,44\n{b},396,109\n{c},879,55\n",
    ],
    ids=["a comma behind each line", "... but the header", "blank lines", "blank lines before the header"],
)
@pytest.mark.parametrize(
    "times",
    [
        ("1714557600000", "1714557601500", "1714557604000"),
        ("2024-05-01 10:00:00", "2024-05-01 10:00:01.5", "2024-05-01 10:00:04"),
    ],
    ids=["ms since 1970", "dates"],
)
def test_what_spreadsheets_leave_in_a_file_hides_no_unit(tmp_path, text, times):
    head = "timestamp,prompt_tokens,output_tokens"
    filled = text.format(head=head, **dict(zip("abc", times, strict=True)))
    assert holds_the_three_requests(guessed(tmp_path, filled)[0])


@pytest.mark.parametrize("first", ["n/a", '"open'])
def test_a_first_row_that_is_none_hides_no_unit(tmp_path, first):
    text = f"timestamp,input_tokens,output_tokens\n{first},1,1\n" + rows(1714557600000, 1714557601500, 1714557604000)
    path = tmp_path / "trace.csv"
    path.write_text(text)
    guess = guess_format(path)
    assert holds_the_three_requests(read_trace(path, guess.format, skip_bad_rows=True, **guess.options))
    with pytest.raises(TraceError, match="line 2: "):
        read_trace(path, guess.format, **guess.options)


def test_a_compressed_file_that_is_cut_off_is_named(tmp_path):
    whole = gzip.compress(SAMPLES["burstgpt"].encode())
    with pytest.raises(TraceError, match=r"trace\.csv: found broken gzip data"):
        guessed(tmp_path, whole[: len(whole) // 2])


def test_two_columns_of_one_name_are_not_chosen_from(tmp_path):
    with pytest.raises(TraceError, match="line 1: found 2 columns 'prompt_tokens'; expected one of that name"):
        guessed(tmp_path, "time,prompt_tokens,output_tokens,prompt_tokens\n0,1,1,2\n")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_fields_are_apart_by_what_spreadsheets_and_databases_put_between_them(tmp_path, separator):
    # Where numbers have a decimal comma, spreadsheets write semicolons; a database's dump has tabs.
    rows = [
        ["id", "arrived at ms", "prompt tokens", "output tokens"],
        ['"a, b"', "1000", "12", "3"],
        ["c", "2500", "4", "5"],
    ]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(separator.join(row) for row in rows) + "\n")
    guess = guess_format(path)
    table = read_trace(path, guess.format, **guess.options)
    assert table.arrival_ms.tolist() == [0.0, 1500.0]
    assert table.prompt_tokens.tolist() == [12, 4]
    assert table.output_tokens.tolist() == [3, 5]


def test_a_semicolon_within_a_field_separates_nothing_where_commas_do(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("arrival_ms,prompt_tokens,output_tokens,note\n0,10,5,a;b\n")
    assert guess_format(path).options["prompt_column"] == "prompt_tokens"

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_samples import AZURE_HEADER, SAMPLES

from batchpilot.core import SLO
from batchpilot.workloads import READERS, TIME_UNITS, TraceError, read_trace

CSV_FORMATS = [name for name in SAMPLES if name != "mooncake"]


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="trace.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def assert_is_sample(table):
    assert table.arrival_ms.tolist() == [0.0, 1500.0, 4000.0]
    assert table.prompt_tokens.tolist() == [374, 396, 879]
    assert table.output_tokens.tolist() == [44, 109, 55]


def test_every_registered_format_has_a_sample_here():
    assert set(SAMPLES) == set(READERS) - {"weka"}, "conversations have tests of their own, in test_weka.py"


@pytest.mark.parametrize("name", SAMPLES)
class TestEveryFormat:
    def test_reads_its_sample(self, write, name):
        table = read_trace(write(SAMPLES[name]), name)
        assert_is_sample(table)
        assert table.skipped_rows == 0
        assert table.concurrency == 0

    @pytest.mark.parametrize(
        "change",
        [
            lambda text: b"\xef\xbb\xbf" + text.encode(),
            lambda text: text.replace("\n", "\r\n"),
            lambda text: text + "\n  \n\n",
            lambda text: text.rstrip("\n"),
            lambda text: gzip.compress(text.encode()),
        ],
        ids=["byte order mark", "CRLF", "blank lines", "no last line end", "gzip"],
    )
    def test_does_not_mind(self, write, name, change):
        assert_is_sample(read_trace(write(change(SAMPLES[name])), name))

    def test_sorts_rows_that_are_out_of_order(self, write, name):
        lines = SAMPLES[name].splitlines(keepends=True)
        lines[-3:] = reversed(lines[-3:])
        assert_is_sample(read_trace(write("".join(lines)), name))

    @pytest.mark.parametrize("spoilt", ["", "{", "nonsense", ",,,,,", "\x00\x01"])
    def test_names_the_file_and_line_of_a_truncated_row(self, write, name, spoilt):
        text = SAMPLES[name]
        last = text.splitlines()[-1]
        path = write(text + last[: len(last) // 2] + spoilt + "\n")
        number = len(text.splitlines()) + 1
        with pytest.raises(TraceError, match=rf"trace\.csv, line {number}: .*expected"):
            read_trace(path, name)

    def test_counts_bad_rows_when_told_to(self, write, name):
        lines = SAMPLES[name].splitlines(keepends=True)
        text = "".join([*lines[:-1], "nonsense\n", lines[-1], "{\n"])
        table = read_trace(write(text), name, skip_bad_rows=True)
        assert_is_sample(table)
        assert table.skipped_rows == 2

    def test_an_empty_file_is_an_error_even_when_bad_rows_are_skipped(self, write, name):
        for content in ("", "\n\n", b"\xef\xbb\xbf"):
            with pytest.raises(TraceError, match=r"trace\.csv, line \d: found no"):
                read_trace(write(content), name, skip_bad_rows=True)

    def test_gzip_cut_short_is_an_error(self, write, name):
        whole = gzip.compress(SAMPLES[name].encode())
        with pytest.raises(TraceError, match="broken gzip"):
            read_trace(write(whole[:-9]), name, skip_bad_rows=True)

    @given(content=st.binary(max_size=300), skip=st.booleans())
    @settings(max_examples=60)
    def test_random_bytes_raise_nothing_but_a_trace_error(self, tmp_path_factory, name, content, skip):
        path = tmp_path_factory.getbasetemp() / "random.bin"
        header = SAMPLES[name].splitlines(keepends=True)[0].encode() if content[:1] < b"\x80" else b""
        path.write_bytes(header + content)
        try:
            table = read_trace(path, name, skip_bad_rows=skip)
        except TraceError:
            return
        assert len(table) >= 1


@pytest.mark.parametrize("name", CSV_FORMATS)
class TestEveryCsvFormat:
    def test_a_wrong_header_names_found_and_expected_columns(self, write, name):
        header, rest = SAMPLES[name].split("\n", 1)
        column = header.split(",")[-1] if name != "burstgpt" else "Response tokens"
        text = header.replace(column, column[:-1]) + "\n" + rest
        with pytest.raises(TraceError, match=rf"line 1: .*closest is '{column[:-1]}'; expected .*{column}"):
            read_trace(write(text), name, skip_bad_rows=True)

    def test_extra_columns_and_any_order_are_fine(self, write, name):
        lines = [line.split(",") for line in SAMPLES[name].splitlines()]
        text = "\n".join(",".join(["id", *reversed(fields), "", "note"]) for fields in lines)
        assert_is_sample(read_trace(write(text), name))

    def test_quoted_fields_are_fine(self, write, name):
        lines = [line.split(",") for line in SAMPLES[name].splitlines()]
        text = "\n".join(",".join(f'"{field}"' for field in [*fields, "a, b"]) for fields in lines)
        assert_is_sample(read_trace(write(text), name))

    def test_a_stray_quote_spoils_only_its_own_line(self, write, name):
        lines = SAMPLES[name].splitlines()
        table = read_trace(write("\n".join([lines[0], '"' + lines[1], *lines[1:]])), name, skip_bad_rows=True)
        assert_is_sample(table)
        assert table.skipped_rows == 1

    def test_a_row_with_more_fields_than_the_header_is_malformed(self, write, name):
        with pytest.raises(TraceError, match=r"line 4: found \d fields .*expected \d"):
            read_trace(write(SAMPLES[name].rstrip("\n") + ",7"), name)


@pytest.mark.parametrize("bad", ["-3", "0", "nan", "inf", "1.5", "x", "", "1_0", "99999999999999999999", "1e400", "٣"])
@pytest.mark.parametrize("column", ["prompt_tokens", "output_tokens"])
def test_lengths_that_are_no_token_counts_are_refused(write, bad, column):
    good = {"prompt_tokens": "10", "output_tokens": "20"} | {column: bad}
    text = f"arrival_ms,prompt_tokens,output_tokens\n0,{good['prompt_tokens']},{good['output_tokens']}\n"
    with pytest.raises(TraceError, match=rf"line 2: {column} is '{bad}'; expected a"):
        read_trace(write(text), "csv")


@pytest.mark.parametrize("bad", ["-3", "nan", "inf", "x", "", "1_0", "1e400", "1e30"])
def test_times_that_are_no_times_are_refused(write, bad):
    with pytest.raises(TraceError, match=rf"line 2: arrival_ms is '{bad}'; expected a number"):
        read_trace(write(f"arrival_ms,prompt_tokens,output_tokens\n{bad},1,1\n"), "csv")


def test_whole_numbers_written_as_floats_are_accepted(write):
    assert read_trace(write("arrival_ms,prompt_tokens,output_tokens\n0,374.0,4e1\n"), "csv").output_tokens[0] == 40


@pytest.mark.parametrize(
    "stamp", ["", "18:15:46", "2023-11-16", "2023-11-16 18:15", "2023-13-16 18:15:46.0", "2023-11-16 18:15:46.x7"]
)
def test_azure_timestamps_that_are_no_dates_are_refused(write, stamp):
    with pytest.raises(TraceError, match=r"line 2: TIMESTAMP is .*expected a date such as"):
        read_trace(write(f"{AZURE_HEADER}{stamp},1,1\n"), "azure2023")


def test_azure_keeps_the_seventh_digit(write):
    text = AZURE_HEADER + "2023-11-16 18:15:46.0000001,1,1\n2023-11-16 18:15:46.0000008,1,1\n"
    assert read_trace(write(text), "azure2023").arrival_ms[1] == 7e-4


def test_azure_offsets_from_utc_are_applied(write):
    text = AZURE_HEADER + "\n".join(
        f"{stamp},1,1"
        for stamp in (
            "2024-05-10 00:00:00",
            "2024-05-10 02:00:01.5+02:00",
            "2024-05-09T19:00:02-05:00",
            "2024-05-10 00:00:03.25Z",
        )
    )
    assert read_trace(write(text), "azure2024").arrival_ms.tolist() == [0.0, 1500.0, 2000.0, 3250.0]


@pytest.mark.parametrize("utc", ["", "Z", "+00", "+0000", "+00:00", " +0000", " UTC"])
def test_offsets_are_read_as_databases_and_log_files_write_them(write, utc):
    text = f"{AZURE_HEADER}2024-05-10 00:00:00{utc},1,1\n2024-05-10T00:00:01.123456{utc},1,1\n"
    assert read_trace(write(text), "azure2024").arrival_ms.tolist() == [0.0, 1123.456]


def test_azure_rows_that_generated_nothing_are_malformed(write):
    text = SAMPLES["azure2023"] + "2023-11-16 18:15:51.0000000,10,0\n"
    with pytest.raises(TraceError, match="line 5: GeneratedTokens is '0'"):
        read_trace(write(text), "azure2023")


def test_burstgpt_failures_are_left_out_and_counted_without_being_told_to(write):
    text = SAMPLES["burstgpt"] + "10,ChatGPT,100,0,100,Conversation log\n11,GPT-4,0,0,0,API log\n"
    table = read_trace(write(text), "burstgpt")
    assert_is_sample(table)
    assert table.skipped_rows == 2


def test_burstgpt_answers_to_nothing_are_malformed(write):
    with pytest.raises(TraceError, match="line 5: Request tokens is '0'"):
        read_trace(write(SAMPLES["burstgpt"] + "10,ChatGPT,0,7,7,API log\n"), "burstgpt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"timestamp": 0, "input_length": 3', "one whole JSON object"),
        ("[1, 2]", "a JSON object"),
        ('{"timestamp": 0, "input_length": 3}', "found keys 'timestamp, input_length'; expected 'output_length'"),
        ('{"timestamp": 0, "input_length": "3", "output_length": 1}', "input_length is '3'; expected a number"),
        ('{"timestamp": 0, "input_length": true, "output_length": 1}', "input_length is 'True'; expected a number"),
        ('{"timestamp": NaN, "input_length": 3, "output_length": 1}', "timestamp is 'nan'"),
        ('{"timestamp": 0, "input_length": 3, "output_length": -1}', "output_length is '-1'"),
        ("[" * 100_000, "one whole JSON object"),
    ],
)
def test_mooncake_lines_that_are_no_requests_are_refused(write, line, message):
    with pytest.raises(TraceError, match=f"line 4: .*{message}"):
        read_trace(write(SAMPLES["mooncake"] + line), "mooncake")


def test_mooncake_hashes_are_kept_for_whole_blocks_of_512_tokens(write):
    lines = [
        '{"timestamp": 0, "input_length": 1300, "output_length": 4, "hash_ids": [0, 1, 2]}',
        '{"timestamp": 1, "input_length": 1536, "output_length": 4, "hash_ids": [0, 1, 3]}',
        '{"timestamp": 2, "input_length": 100, "output_length": 4, "hash_ids": [9]}',
        '{"timestamp": 3, "input_length": 600, "output_length": 4}',
    ]
    prefixes = read_trace(write("\n".join(lines)), "mooncake").prefixes
    assert prefixes.block_tokens == 512
    assert prefixes.hashes.tolist() == [0, 1, 0, 1, 3]
    assert prefixes.starts.tolist() == [0, 2, 5, 5, 5]
    # The third is shorter than a block; without any whole block there is nothing to share.
    assert read_trace(write(lines[2]), "mooncake").prefixes is None


def test_a_mooncake_line_whose_hashes_are_null_shares_nothing(write):
    line = '{"timestamp": 0, "input_length": 1300, "output_length": 4, "hash_ids": null}'
    assert read_trace(write(line), "mooncake").prefixes is None


@pytest.mark.parametrize("ids", ["7", '"7"', "[0, 1.5]", "[true]", "[null]", "[18446744073709551616]", "{}"])
def test_mooncake_hashes_that_are_no_whole_numbers_are_refused(write, ids):
    line = f'{{"timestamp": 0, "input_length": 1300, "output_length": 4, "hash_ids": {ids}}}'
    with pytest.raises(TraceError, match="line 1: hash_ids"):
        read_trace(write(line), "mooncake")


def test_mooncake_hashes_that_mean_two_things_are_refused(write):
    rows = "\n".join(
        f'{{"timestamp": 0, "input_length": 1100, "output_length": 4, "hash_ids": {ids}}}' for ids in ([0, 1], [2, 1])
    )
    with pytest.raises(TraceError, match="block hash 1 follows two different ones"):
        read_trace(write(rows), "mooncake")


BLANKS = (
    "arrival_ms , prompt_tokens, output_tokens\n0 , 10, 5\n",
    "arrival_ms   ,prompt_tokens   ,output_tokens   \n0            ,10              ,5           \n",
    '\ufeff"arrival_ms" , "prompt_tokens" ,"output_tokens" \n"0" , "10" ,"5" \n',
    "\ufeffarrival_ms,prompt_tokens,output_tokens\t\r\n0,10,5\r\n",
)


@pytest.mark.parametrize("text", BLANKS)
def test_blanks_beside_names_and_values_do_not_count(write, text):
    table = read_trace(write(text), "csv", arrival_column=" arrival_ms")
    assert (table.prompt_tokens.tolist(), table.output_tokens.tolist()) == ([10], [5])


def test_csv_columns_and_unit_are_named_by_the_caller(write):
    text = "when,in,out\n7,374,44\n8.5,396,109\n11,879,55\n"
    columns = {"arrival_column": "when", "prompt_column": "in", "output_column": "out"}
    assert_is_sample(read_trace(write(text), "csv", **columns, time_unit="s"))


@pytest.mark.parametrize("unit", TIME_UNITS)
def test_time_units_are_converted_to_ms(write, unit):
    in_one_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9, "100ns": 10**7}[unit]
    text = f"arrival_ms,prompt_tokens,output_tokens\n0,1,1\n{in_one_second},1,1\n"
    assert read_trace(write(text), "csv", time_unit=unit).arrival_ms[1] == 1000.0


def test_unknown_names_are_answered_with_the_closest(write):
    path = write(SAMPLES["csv"])
    with pytest.raises(ValueError, match="unknown trace format 'azure2032'; did you mean 'azure2024' or 'azure2023'"):
        read_trace(path, "azure2032")
    with pytest.raises(ValueError, match="unknown time unit 'sec'"):
        read_trace(path, "csv", time_unit="sec")
    with pytest.raises(ValueError, match="format vidur does not take time_unit"):
        read_trace(path, "vidur", time_unit="s")
    with pytest.raises(ValueError, match="format csv does not take arrival"):
        read_trace(path, "csv", arrival="when")


def test_a_missing_file_is_the_systems_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_trace(tmp_path / "absent.csv", "csv")


def test_the_window_is_cut_in_trace_time_before_the_rate_is_scaled(write):
    table = read_trace(write(SAMPLES["vidur"]), "vidur", start_s=1.0, duration_s=4.0, rate=2.0)
    assert table.prompt_tokens.tolist() == [396, 879]
    assert table.arrival_ms.tolist() == [500.0, 1750.0]


def test_rate_two_halves_every_gap(write):
    assert read_trace(write(SAMPLES["vidur"]), "vidur", rate=2.0).arrival_ms.tolist() == [0.0, 750.0, 2000.0]


def test_a_loop_fills_its_time_at_the_same_mean_rate(write):
    table = read_trace(write(SAMPLES["vidur"]), "vidur", loop_s=600.0)
    assert 590_000 < table.arrival_ms[-1] < 600_000
    assert len(table) == pytest.approx(600 / 2.0, rel=0.02)
    assert table.prompt_tokens[:6].tolist() == [374, 396, 879] * 2


def test_max_requests_keeps_the_first(write):
    assert read_trace(write(SAMPLES["vidur"]), "vidur", max_requests=2).prompt_tokens.tolist() == [374, 396]


def test_the_slo_is_given_to_every_request(write):
    table = read_trace(write(SAMPLES["vidur"]), "vidur", slo=SLO(700.0, 30.0, "strict"))
    assert table.ttft_target_ms.tolist() == [700.0] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 0.0}, "rate factor is 0"),
        ({"start_s": -1.0}, "start_s is -1"),
        ({"duration_s": 0.0}, "is empty"),
        ({"loop_s": 0.0}, "cannot loop"),
        ({"max_requests": 0}, "max_requests is 0"),
        ({"start_s": 50.0}, "no request from 50 to inf s; the trace lasts 4 s"),
    ],
)
def test_arguments_that_leave_nothing_are_refused(write, arguments, message):
    with pytest.raises(ValueError, match=message):
        read_trace(write(SAMPLES["vidur"]), "vidur", **arguments)


def test_a_trace_of_one_moment_cannot_be_looped(write):
    text = "arrival_ms,prompt_tokens,output_tokens\n5,1,1\n5,2,2\n"
    with pytest.raises(TraceError, match="all 2 requests arrive at one moment"):
        read_trace(write(text), "csv", loop_s=10.0)


requests = st.lists(
    st.tuples(st.integers(0, 10**12), st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=20
)


@given(rows=requests)
@settings(max_examples=50)
def test_what_was_written_reads_back_equal(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "written"
    ordered = sorted(rows, key=lambda row: row[0])
    wanted = [(float(time - ordered[0][0]), prompt, output) for time, prompt, output in ordered]
    keys = ("timestamp", "input_length", "output_length")
    contents = {
        "csv": "arrival_ms,prompt_tokens,output_tokens\n" + "\n".join(",".join(map(str, row)) for row in rows),
        "mooncake": "\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in rows),
    }
    for name, content in contents.items():
        path.write_text(content)
        table = read_trace(path, name)
        columns = (table.arrival_ms, table.prompt_tokens, table.output_tokens)
        assert list(zip(*(column.tolist() for column in columns), strict=True)) == wanted


def test_the_published_conversation_trace_is_read_whole(azure_trace):
    table = read_trace(azure_trace("conv"), "azure2023")
    # The count stands in shared/README.md, the first times in the file: 46.6805900, 50.9951690 and 51.2224670 s.
    assert len(table) == 19_366
    assert table.arrival_ms[:3] == pytest.approx([0.0, 4314.579, 4541.877], abs=1e-9)
    assert table.prompt_tokens[:3].tolist() == [374, 396, 879]
    assert 3_400_000 < table.duration_ms < 3_600_000
    assert np.isfinite(table.arrival_ms).all()


def test_the_published_code_trace_is_read_whole(azure_trace):
    assert len(read_trace(azure_trace("code"), "azure2023")) == 8_819

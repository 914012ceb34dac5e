"""Steps are written as they end, bounded, and readable whatever happened to the writer."""

import os
import signal
import subprocess
import sys

import pytest

from batchpilot.latency.fitting.measurement_files import read_measurement_files, read_measurements
from batchpilot.runners.calibration.calibrating import calibrate_files
from batchpilot.serving.recording import COLUMNS, StepRecorder

HEADER = ",".join(COLUMNS)


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


def recorded(path, steps, **options):
    recorder = StepRecorder(path, **options)
    recorder.start()
    for step in steps:
        recorder.hear(*step)
    recorder.stop()
    return recorder


def latencies(*paths):
    return read_measurement_files(paths).observations.latency_ms.tolist()


def test_what_was_recorded_is_what_calibrate_reads(tmp_path):
    path = tmp_path / "steps.csv"
    rows = [(B, B, 40 * B, 8.0 + 0.5 * B) for B in range(1, 33)] + [(4, 100 * n, 0, 5.0 + 4.0 * n) for n in range(1, 9)]
    recorded(path, rows)
    read = read_measurements(path).observations
    assert read.batch_size.tolist() == [row[0] for row in rows]
    assert read.tokens.tolist() == [row[1] for row in rows]
    assert read.context_tokens.tolist() == [row[2] for row in rows]
    assert read.latency_ms.tolist() == [row[3] for row in rows]
    assert calibrate_files(path, select={"model": "my own"}).judgement.mape < 0.05


@pytest.mark.parametrize("cut", range(1, 36))
def test_a_line_cut_anywhere_is_neither_misread_nor_continued(tmp_path, cut):
    path = tmp_path / "steps.csv"
    recorded(path, [(1, 2, 3, 40.25), (12, 345, 6789, 41.125)], clock=lambda: 1234567890.5)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    before = latencies(path)
    assert before in ([40.25], [40.25, 41.125]), "a part of a number is another number"
    recorded(path, [(1, 1, 1, 43.5)])
    assert latencies(path) == [*before, 43.5], "what was read once is not lost"
    assert path.read_text().count(HEADER) == 1


def test_a_killed_writer_leaves_a_file_that_is_read_and_continued(tmp_path):
    path = tmp_path / "steps.csv"
    writer = (
        "import sys; from batchpilot.serving.recording import StepRecorder\n"
        "recorder = StepRecorder(sys.argv[1]); recorder.start()\n"
        "while True: recorder.hear(3, 3, 100, 12.5)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", writer, str(path)])
    try:
        while not (path.exists() and path.stat().st_size > len(HEADER) + 1):
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = latencies(path)
    assert set(before) == {12.5}
    recorded(path, [(1, 1, 1, 7.5)])
    assert latencies(path) == [*before, 7.5]


def test_half_full_it_goes_on_in_a_new_file_and_never_holds_more_than_it_may(tmp_path):
    path, most = tmp_path / "steps.csv", 20_000
    recorder = StepRecorder(path, largest_mb=most / 1e6)
    recorder.start()
    for step in range(5000):
        recorder.hear(1, 1, 1, float(step + 1))
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= most + 100
    recorder.stop()
    kept = latencies(recorder.previous, path)
    assert kept == [float(step + 1) for step in range(5000 - len(kept), 5000)], "the latest steps, in their order"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["steps.1.csv", "steps.csv"]


def test_a_step_reaches_the_file_within_a_second(tmp_path):
    clock, path = Clock(), tmp_path / "steps.csv"
    recorder = StepRecorder(path, clock=clock)
    recorder.start()
    recorder.hear(1, 1, 1, 10.0)
    clock.now_s += 1.0
    recorder.hear(1, 1, 1, 20.0)
    assert latencies(path) == [10.0, 20.0]
    clock.now_s -= 3600.0
    recorder.hear(1, 1, 1, 30.0)
    assert latencies(path) == [10.0, 20.0, 30.0], "a clock that is set back holds nothing back"


@pytest.mark.parametrize("name", ["steps.csv", "steps.1.csv"])
def test_a_file_of_somebody_else_is_neither_continued_nor_replaced(tmp_path, name):
    (tmp_path / name).write_text("my,own,notes\n1,2,3\n")
    with pytest.raises(ValueError, match=f"{name} is there and is no recording"):
        StepRecorder(tmp_path / "steps.csv").start()
    assert (tmp_path / name).read_text() == "my,own,notes\n1,2,3\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")  # noqa: PTH110
def test_a_full_disk_ends_the_recording_and_nothing_else(tmp_path):
    clock = Clock()
    recorder = StepRecorder(tmp_path / "steps.csv", clock=clock)
    recorder.start()
    (tmp_path / "steps.csv").unlink()
    recorder._file.close()
    recorder._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115, PTH123
    clock.now_s += 2.0
    recorder.hear(1, 1, 1, 10.0)
    assert not recorder.recording
    assert "No space left" in recorder.fault
    recorder.hear(1, 1, 1, 10.0)
    recorder.stop()
    recorder.start()
    assert (recorder.recording, recorder.fault) == (True, None)
    recorder.stop()


def test_models_are_told_apart_and_cannot_break_a_line(tmp_path):
    path = tmp_path / "steps.csv"
    recorded(path, [(1, 1, 1, 10.0, 'a "model", of\nmany'), (1, 1, 1, 20.0, "b")])
    assert read_measurements(path, select={"model": "b"}).observations.latency_ms.tolist() == [20.0]
    with pytest.raises(ValueError, match="rows differ in model"):
        read_measurements(path)


def test_files_of_different_models_are_not_fitted_together(tmp_path):
    for model in "ab":
        recorded(tmp_path / f"{model}.csv", [(1, 1, 1, 10.0, model)])
    with pytest.raises(ValueError, match="fit them one by one"):
        read_measurement_files([tmp_path / "a.csv", tmp_path / "b.csv"])

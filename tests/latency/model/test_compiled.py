import numpy as np

from batchpilot.latency.model.compiled import entered, kernel, kernel_sources_stamp

KERNEL = "from batchpilot.latency.model.compiled import kernel\n"


def test_a_change_in_any_module_with_kernels_changes_the_stamp_and_one_elsewhere_does_not(tmp_path):
    (tmp_path / "baselines").mkdir()
    (tmp_path / "core").mkdir()
    (tmp_path / "baselines" / "rollout.py").write_text(KERNEL)
    (tmp_path / "baselines" / "rule.py").write_text("A = 1\n")
    (tmp_path / "core" / "words.py").write_text("CODE = 1\n")
    before = kernel_sources_stamp(tmp_path)
    (tmp_path / "baselines" / "rule.py").write_text("A = 2\n")
    assert kernel_sources_stamp(tmp_path) == before
    (tmp_path / "baselines" / "rollout.py").write_text(KERNEL + "B = 1\n")
    changed = kernel_sources_stamp(tmp_path)
    assert changed != before
    (tmp_path / "core" / "words.py").write_text("CODE = 2\n")
    assert kernel_sources_stamp(tmp_path) != changed


def test_a_kernel_that_is_entered_directly_answers_as_when_it_is_called():
    @kernel
    def add(table, by):
        for row in range(len(table)):
            table[row] += by
        return table.sum()

    directly, called = entered(add), np.arange(6.0)
    again = called.copy()
    for by in (1.0, 2.5, -4.0):
        assert directly(called, by) == add(again, by)
    np.testing.assert_array_equal(called, again)


def test_without_compilation_a_kernel_is_entered_as_the_plain_function_that_it_is():
    assert [entered(max)(1, other) for other in (0, 2)] == [1, 2]

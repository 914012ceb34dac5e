import ast
from pathlib import Path

import numpy as np
import pytest

import batchpilot
from batchpilot.latency.model.compiled import KernelFile, entered, inlined, kernel, kernel_sources_stamp

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


def test_what_a_kernel_calls_is_a_part_of_it_and_gets_a_form_of_its_own_when_python_calls_it():
    @inlined
    def following(a):
        return a + 1

    @kernel
    def shared(a, among):
        return a // among

    @kernel
    def outer(a, among):
        return shared(following(a), among)

    assert outer(9, 2) == 5
    assert [len(one.overloads) for one in (following, shared, outer)] == [0, 0, 1]
    assert [shared(9, 2), following(1), outer(7, 4)] == [4, 2, 2]
    assert [len(one.overloads) for one in (following, shared, outer)] == [1, 1, 1]


def test_an_error_within_what_a_kernel_calls_is_raised():
    @kernel
    def shared(a, among):
        if among > 9:
            raise ValueError("too many")
        return a // among

    @kernel
    def outer(a, among):
        return shared(a, among)

    with pytest.raises(ZeroDivisionError):
        outer(1, 0)
    with pytest.raises(ValueError, match="too many"):
        outer(1, 10)


def test_without_compilation_a_kernel_is_entered_as_the_plain_function_that_it_is():
    assert [entered(max)(1, other) for other in (0, 2)] == [1, 2]


def test_compiled_code_is_never_taken_for_that_of_other_sources_or_another_signature(tmp_path):
    old, new, beside = (KernelFile(str(tmp_path), "plan-1.py311", stamp) for stamp in ("a" * 64, "b" * 64, "b" * 64))
    old.save("f8", "old f8")
    assert (old.load("f8"), new.load("f8"), old.load("i8")) == ("old f8", None, None)
    # Two processes that both begin with no index of the present sources: each knows its own form alone.
    unaware = beside._load_index()
    new.save("f8", "new f8")
    beside._load_index = lambda: dict(unaware)
    beside.save("i8", "new i8")
    assert (new.load("i8"), new.load("f8")) == ("new i8", None), "what is lost from the index is compiled again"
    new.save("f8", "new f8")
    assert (new.load("i8"), new.load("f8"), old.load("f8")) == ("new i8", "new f8", None)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".nbc", ".nbc", ".nbi"], "old forms go"


def test_two_versions_of_numba_on_one_checkout_write_to_different_files(tmp_path):
    one, other = (KernelFile(str(tmp_path), "plan-1.py311", "a" * 64) for _ in range(2))
    other._version = "another"
    one.save("f8", "one")
    other.save("f8", "other")
    assert len(list(tmp_path.glob("*.nbc"))) == 2
    assert (one.load("f8"), other.load("f8")) == (None, "other")


def test_the_index_names_a_compiled_form_only_once_it_is_there(tmp_path):
    file = KernelFile(str(tmp_path), "plan-1.py311", "a" * 64)
    file._save_index = lambda overloads: seen.extend((tmp_path / name).exists() for name in overloads.values())
    seen = []
    file.save("f8", "code")
    assert seen == [True]


def test_no_kernel_calls_a_function_that_creates_arrays():
    """A kernel has no run time that counts references: environments whose rows one ran died of a damaged heap."""
    functions = [
        (node, {decorator.id for decorator in node.decorator_list if isinstance(decorator, ast.Name)})
        for path in Path(batchpilot.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    kernels = {node.name for node, marks in functions if marks & {"kernel", "inlined", "compiled_once"}}
    creating = {node.name for node, marks in functions if "allocating" in marks} - kernels
    called = {
        (node.name, call.func.id)
        for node, marks in functions
        if marks & {"kernel", "inlined", "compiled_once"}
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    }
    assert "row" in creating
    assert {(caller, name) for caller, name in called if name in creating} == set()

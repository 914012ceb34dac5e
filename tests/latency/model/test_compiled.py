import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import batchpilot
from batchpilot.latency.model.compiled import KernelFile, apart, compiled_once, entered, kernel, kernel_sources_stamp

KERNEL = "from batchpilot.latency.model.compiled import kernel\n"
BY_NAME = """
import json
from batchpilot.latency.model.compiled import compiled_once, kernel

@compiled_once
def shared(a, among):
    if among > 9:
        raise ValueError("too many")
    return a // among

@kernel
def part(a, among):
    return 2 * shared(a, among)

@kernel
def outer(a, among):
    return part(a, among) + 1

if __name__ == "__main__":
    import by_name
    answers = [by_name.outer(9, 2), by_name.outer(9.0, 2)]
    try:
        by_name.outer(1, 10)
    except ValueError as error:
        answers.append(str(error))
    kernels = (by_name.shared, by_name.outer)
    made = [sum(one.stats.cache_misses.values()) for one in kernels]
    print(json.dumps([answers, made, [len(one.overloads) for one in kernels]]))
"""


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
    @kernel
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


def test_what_is_compiled_once_is_called_by_name_in_the_process_that_makes_a_kernel_and_in_those_that_find_it(tmp_path):
    script = tmp_path / "by_name.py"
    script.write_text(BY_NAME)

    def run():
        here = {"PYTHONPATH": str(Path(batchpilot.__file__).parents[1]), "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
        told = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, check=True, env=os.environ | here
        )
        return json.loads(told.stdout)

    answers = [9, 9.0, "too many"]
    assert run() == [answers, [2, 2], [2, 2]]
    assert run() == [answers, [0, 0], [2, 2]], "a kernel found on disk brings what it calls"
    for path in tmp_path.rglob("by_name.shared-*"):
        path.unlink()
    assert run() == [answers, [2, 0], [2, 2]], "gone from disk, it is made anew under the same name"


def test_a_kernel_holds_no_copy_of_what_is_compiled_once():
    @compiled_once
    def shared(a, among):
        return a // among

    @kernel
    def outer(a, among):
        return shared(a, among)

    assert outer(9, 2) == 4
    here, there = (next(iter(one.overloads.values())) for one in (outer, shared))
    assert here.library._get_module_for_linking().get_function(there.fndesc.mangled_name).is_declaration


@pytest.mark.skipif(numba.version_info.short < (0, 66), reason="LLVM before that of Numba 0.66 inlines it all the same")
def test_what_is_apart_is_called_and_all_else_is_inlined():
    @kernel
    def following(a):
        return a + 1

    @apart
    def seldom(a, among):
        return a // following(among)

    @kernel
    def outer(a, among):
        return seldom(following(a), among) if a > 0 else 0

    assert [outer(9, 1), outer(-1, 1)] == [5, 0]
    code = next(iter(outer.overloads.values())).library._get_module_for_linking()
    left = [one.name for one in code.functions if not one.is_declaration]
    assert [any(name in one for one in left) for name in ("seldom", "following")] == [True, False]


def test_a_kernel_that_is_called_with_constants_is_compiled_once_for_all_of_them():
    @kernel
    def times(a, by):
        return a * by

    @kernel
    def outer(a):
        return times(a, 2) + times(a, 3) + times(a, a)

    assert outer(2) == 14
    part = times.get_call_template.__closure__
    forms = next(one.cell_contents for one in part if callable(one.cell_contents))().overloads
    assert len(forms) == 1


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
    kernels = {node.name for node, marks in functions if marks & {"kernel", "apart", "compiled_once"}}
    creating = {node.name for node, marks in functions if "allocating" in marks} - kernels
    called = {
        (node.name, call.func.id)
        for node, marks in functions
        if marks & {"kernel", "apart", "compiled_once"}
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    }
    assert "row" in creating
    assert {(caller, name) for caller, name in called if name in creating} == set()

"""Files and JSON: whole, and readable by every reader."""

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchpilot
from batchpilot.core.files import json_text, write_atomic, write_json

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
PLAIN = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


def strict(text):
    def refuse(word):
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


@given(PLAIN)
def test_whatever_is_written_is_json_and_finite_values_come_back(value):
    def finite(inner):
        if isinstance(inner, dict):
            return {name: finite(one) for name, one in inner.items()}
        if isinstance(inner, list):
            return [finite(one) for one in inner]
        return None if isinstance(inner, float) and not math.isfinite(inner) else inner

    assert strict(json_text(value)) == finite(value)


def test_arrays_tuples_and_paths_are_written_too(tmp_path):
    path = write_json(tmp_path / "deep" / "file.json", {"a": np.array([1.5, np.nan]), "b": (np.int64(3), Path("x"))})
    assert strict(path.read_text()) == {"a": [1.5, None], "b": [3, "x"]}


def test_a_file_that_cannot_be_replaced_stays_and_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_atomic(tmp_path / "taken", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


ELSEWHERE = {"core/files.py", "core/provenance.py", "tuners/policy/description.py", "serving/texts.py"}
"""The writer; a fingerprint and a length, which nobody reads; a description, which refuses NaN with its reason."""


def test_nothing_in_the_package_writes_json_another_way():
    root = Path(batchpilot.__file__).parent
    calls = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.dump", "json.dumps")
    }
    assert calls == ELSEWHERE

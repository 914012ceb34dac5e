"""Where a YAML file says something, and what is refused before anyone reads it."""

import pytest

from batchpilot.configs import ConfigError, read_yaml

NESTED = """\
# a comment moves lines
workload:
  phases:
    - rate: 1
    - rate: 2
      length: 5
device: A100
"""


@pytest.fixture
def write(tmp_path):
    def _write(content):
        path = tmp_path / "given.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write


def test_every_key_and_list_element_knows_its_line(write):
    file = read_yaml(write(NESTED))
    assert file.data["workload"]["phases"][1] == {"rate": 2, "length": 5}
    assert file.lines[("workload",)] == 2
    assert file.lines[("workload", "phases", 1, "length")] == 6
    assert file.where("device") == f"file {file.path}, line 7"


def test_a_missing_key_is_placed_at_its_nearest_enclosing_key(write):
    file = read_yaml(write(NESTED))
    assert file.where("workload", "phases", 0, "missing").endswith("line 4")
    assert file.where("absent") == f"file {file.path}"


def test_a_key_given_twice_is_refused_with_both_lines(write):
    with pytest.raises(ConfigError, match=r"rate is given twice, first in line 1.*given.yaml, line 2"):
        read_yaml(write("rate: 1\nrate: 2\n"))


def test_broken_yaml_is_refused_with_its_line(write):
    with pytest.raises(ConfigError, match=r"not YAML.*given.yaml, line 2"):
        read_yaml(write("a: 1\nb: c: d\n"))


@pytest.mark.parametrize(("content", "found"), [("", "nothing"), ("- 1\n", "a list"), ("word\n", "a str")])
def test_a_top_level_that_is_no_mapping_is_refused(write, content, found):
    with pytest.raises(ConfigError, match=f"found {found}"):
        read_yaml(write(content))


@pytest.mark.parametrize(
    "content", [b"a: \xff\n", b"a: 2024-13-45\n", b"a: !!python/object:os.system {}\n", b"a: 1\n---\nb: 2\n"]
)
def test_content_that_yaml_cannot_hold_is_a_config_error(write, content):
    with pytest.raises(ConfigError, match=r"not YAML.*given.yaml"):
        read_yaml(write(content))


def test_anchors_and_merges_are_read(write):
    file = read_yaml(write("base: &base\n  a: 1\nother:\n  <<: *base\n  b: 2\nsame: *base\n"))
    assert file.data["other"] == {"a": 1, "b": 2}
    assert file.where("other", "a").endswith("line 3")


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "absent.yaml")

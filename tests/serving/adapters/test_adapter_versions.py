"""Adapters refuse versions that nobody has tried them with."""

import pytest

from batchpilot.serving.adapters.versions import UnknownVersionError, check_version


@pytest.mark.parametrize("version", ["0.33", "0.33.0", "0.33.0+cu130", "0.33.1rc2", "0.33.12"])
def test_known_versions_pass(version):
    assert check_version("vllm", version, "0.33", "0.34") is None


@pytest.mark.parametrize("version", ["0.32.9", "0.34.0", "0.34", "1.0", "0.3.3", "", "main"])
def test_unknown_version_is_named_with_what_is_known_and_what_to_do(version):
    with pytest.raises(UnknownVersionError, match=r"vllm is '.*'; .* >= 0\.33 and < 0\.34.*pip install.*gateway"):
        check_version("vllm", version, "0.33", "0.34")

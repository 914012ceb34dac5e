"""Terms of tenants, and the file that says them."""

import pytest

from batchpilot.configs.errors import ConfigError
from batchpilot.configs.tenants import tenants_file
from batchpilot.core.tenants import TenantTerms, has_ceiling, read_terms


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", 0),
        ("weight", -1.0),
        ("weight", float("nan")),
        ("weight", float("inf")),
        ("weight", "2"),
        ("weight", True),
        ("max_running", 0),
        ("max_running", 2.5),
        ("max_running", True),
    ],
)
def test_terms_outside_their_bounds_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field} is"):
        TenantTerms(**{field: value})


def test_a_file_says_them_by_user(tmp_path):
    path = tmp_path / "tenants.yaml"
    path.write_text("alice: {weight: 2, max_running: 8}\n7: {max_running: 1}\nbob: {}\n")
    terms = tenants_file(path)
    assert terms == {"alice": TenantTerms(2, 8), "7": TenantTerms(max_running=1), "bob": TenantTerms()}
    assert has_ceiling(terms)
    assert not has_ceiling({"bob": TenantTerms(weight=3.0)})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alice: {wieght: 2}", "alice .* weight and max_running"),
        ("alice: 2", "alice .* weight and max_running"),
        ("alice: {max_running: 0}", "alice .*max_running is 0"),
        ("- alice", "expected a mapping"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path, text, said):
    path = tmp_path / "tenants.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        tenants_file(path)
    assert "tenants.yaml" in str(caught.value)


def test_what_is_no_mapping_is_refused():
    with pytest.raises(ValueError, match="scenario"):
        read_terms([1], "the scenario")

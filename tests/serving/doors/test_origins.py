"""Who may ask a server without a token."""

import pytest

from batchpilot.serving.doors.origins import foreign


def told(host=None, *origins):
    hosts = () if host is None else (host,) if isinstance(host, str) else host
    named = [(b"host", each.encode()) for each in hosts] + [(b"origin", each.encode()) for each in origins]
    return foreign([*named, (b"accept", b"*/*")])


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LocalHost:80", "[::1]:8000", "127.0.0.9"])
def test_this_machine_and_its_own_pages_are_answered(host):
    assert told(host) is None
    assert told(host, f"http://{host}") is None
    assert told(host, f"https://{host.upper()}") is None


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "127.0.0.1.evil.example:8000",
        "127.0.0.1@evil.example",
        "localhost.evil.example",
        "evil.example:8000#@127.0.0.1",
        "[::1",
        "192.168.0.7:8000",
        "0.0.0.0:8000",
        ("127.0.0.1", "evil.example"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_name_that_was_made_to_lead_here_is_refused(host):
    assert "not this machine" in told(host)


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://127.0.0.1:9000", "http://127.0.0.1.evil.example:8000", "http://[::1"],
)
def test_a_page_of_another_origin_is_refused(origin):
    assert "may not ask" in told("127.0.0.1:8000", origin)
    assert "may not ask" in told("127.0.0.1:8000", "http://127.0.0.1:8000", origin)

"""The load test's own HTTP: framings, connections used again, addresses, and servers that break off."""

import asyncio
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import DONE, loaded, text, usage

from batchpilot.core import SLO
from batchpilot.serving.load import client
from batchpilot.serving.load.http import Address
from batchpilot.serving.load.responses import HttpError, ResponseReader
from batchpilot.serving.load.run import LoadSettings, run_load
from batchpilot.workloads.table import RequestTable

ANSWER = (text(" a"), text(" b", "length"), usage(2), DONE)


def table(count, gap_ms=0.0):
    return RequestTable.from_arrays(np.arange(count) * gap_ms, 20, 2, slos=SLO(1e6, 1e6))


class Heard:
    def __init__(self):
        self.status, self.headers, self.data = 0, {}, b""

    def head(self, status, headers):
        self.status, self.headers = status, headers

    def body(self, data):
        assert data
        self.data += data


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: 1\r\n\r\n"
COUNTED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + COUNTED
UNTIL_CLOSE = b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nabcde"


@given(st.sampled_from([CHUNKED, COUNTED, CONTINUED, UNTIL_CLOSE]), st.lists(st.integers(0, 120), max_size=8))
def test_every_framing_is_heard_wherever_it_is_cut(response, cuts):
    reader, heard = ResponseReader(), Heard()
    reader.expect(heard)
    places = [0, *sorted(min(cut, len(response)) for cut in cuts), len(response)]
    for start, stop in pairwise(places):
        if stop > start:
            reader.hear(response[start:stop])
    if response is UNTIL_CLOSE:
        reader.end()
    assert (heard.status, heard.data, reader.complete) == (200, b"abcde", True)
    assert reader.keep_alive is (response is not UNTIL_CLOSE)


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH_9.7\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000,
    ],
)
def test_what_is_no_http_is_refused(response):
    reader = ResponseReader()
    reader.expect(Heard())
    with pytest.raises(HttpError):
        reader.hear(response)


@pytest.mark.parametrize("part", [b"", COUNTED[:20], COUNTED[:-1], CHUNKED[:-2]])
def test_a_response_that_breaks_off_is_known_to(part):
    reader = ResponseReader()
    reader.expect(Heard())
    if part:
        reader.hear(part)
    with pytest.raises(HttpError, match=r"broke off|closed without"):
        reader.end()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8000", Address("http", "127.0.0.1", 8000)),
        ("http://127.0.0.1:8000/v1/", Address("http", "127.0.0.1", 8000)),
        ("https://api.example.com/models/one", Address("https", "api.example.com", 443, "/models/one")),
        ("http://[::1]:80", Address("http", "::1", 80)),
    ],
)
def test_addresses_are_read_with_and_without_v1(url, address):
    assert Address.parse(url) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "localhost", "ftp://host", "http://", "http://h:port", "http://h?x=1", ""]
)
def test_what_is_no_address_is_refused_with_an_example(url):
    with pytest.raises(ValueError, match=r"URL .*http"):
        Address.parse(url)


def test_connections_that_are_free_are_used_again():
    result, served = loaded(lambda exchange: exchange.stream(*ANSWER), table(10, gap_ms=20.0))
    assert result.outcome.count("length") == 10
    assert served.connections < 10


def test_a_connection_that_the_server_closed_meanwhile_is_replaced():
    answered = iter([True, False] * 3)

    def script(exchange):
        # Every second request meets a connection that ends without a word, as an idle one that has timed out.
        if next(answered):
            exchange.stream(*ANSWER)
        else:
            exchange.close()

    result, served = loaded(script, table(3, gap_ms=50.0))
    assert result.outcome.finish_reason == ["length"] * 3
    assert len(served.asked) == 5


def test_a_server_that_ends_every_connection_is_served_all_the_same():
    def script(exchange):
        exchange.stream(*ANSWER, connection="close")
        exchange.close()

    result, served = loaded(script, table(5, gap_ms=5.0))
    assert result.outcome.count("length") == 5
    assert served.connections >= 5


def test_a_server_that_dies_on_the_way_fails_what_is_under_way_and_what_comes_after(monkeypatch):
    async def named(self, wanted):
        self.model = wanted

    monkeypatch.setattr(client.CompletionClient, "find_model", named)

    async def run():
        async def answer(reader, writer):
            await reader.readuntil(b"}")
            piece = ANSWER[0]
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            writer.write(head + b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            server.close()
            writer.transport.abort()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        requests = RequestTable.from_arrays([0.0, 300.0], 20, 2)
        return await run_load(requests, LoadSettings(address, "known", bytes_per_token=4.0))

    outcome = asyncio.run(run()).outcome
    assert outcome.finish_reason == ["failed", "failed"]
    assert outcome.generated_tokens.tolist() == [1, 0]
    assert np.isnan(outcome.ttft_ms).tolist() == [False, True]


def test_a_server_that_never_answers_leaves_its_requests_unfinished():
    async def silent(exchange):
        await asyncio.sleep(60)

    result, _ = loaded(silent, table(3), grace_s=0.2)
    assert result.outcome.finish_reason == ["unfinished"] * 3
    assert not result.interrupted


def test_a_server_that_never_says_what_it_serves_is_given_up(monkeypatch):
    monkeypatch.setattr(client, "ASKING_TIMEOUT_S", 0.2)

    async def run():
        server = await asyncio.start_server(lambda reader, writer: asyncio.sleep(60), "127.0.0.1", 0)
        await run_load(table(1), LoadSettings(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))

    with pytest.raises(ValueError, match=r"no answer within 0\.2 s"):
        asyncio.run(run())

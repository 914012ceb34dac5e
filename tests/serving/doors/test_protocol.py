"""Connections: heads have bounds of size and time, there are only so many, and none is left or dropped too soon."""

import contextlib
import socket

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("httptools")

from door_server import behind_doors, heard, opened, request, wait_until

from batchpilot.serving.doors.protocol import MOST_CONNECTIONS, MOST_HEAD_BYTES, most_connections

LONG = b"x" * (MOST_HEAD_BYTES + 1)


@pytest.mark.parametrize(
    "parts",
    [
        [request("/", f"X: {LONG.decode()}")],
        [request("/" + LONG.decode())],
        [b"GET / HTTP/1.1\r\nX: ", *[b"x" * 1000] * 70],
        [b"GET / HTTP/1.1\r\n", *[b"X: 1\r\n" * 200] * 80],
        [b"GET /", *[b"x" * 1000] * 70],
        [b"\r\n" * 40_000],
    ],
    ids=["one header", "the line", "an endless header", "endless headers", "an endless line", "endless lines"],
)
def test_a_head_beyond_its_bound_is_refused(parts):
    with behind_doors() as (_, _, address), opened(address) as connection:
        for part in parts:
            with contextlib.suppress(ConnectionError):
                connection.sendall(part)
        assert heard(connection)[:13] in (b"HTTP/1.1 400 ", b"")
        with opened(address) as another:
            another.sendall(request())
            assert heard(another, b"bytes").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("tail", [b"X: " + 16 * LONG, b"X: 1\r\n" * 200_000, b"1;" + 16 * LONG])
def test_trailers_and_what_stands_between_chunks_have_the_bound_too(tail):
    begun = b"POST /slow HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    last = b"" if tail.startswith(b"1;") else b"0\r\n"
    with behind_doors() as (application, _, address), opened(address) as connection:
        connection.sendall(begun + last + tail[:1000])
        connection.sendall(tail[1000:])
        assert b"200 OK" not in heard(connection)
        wait_until(lambda: application.left == 1)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"\r\n"])
def test_a_head_that_does_not_come_is_not_waited_for(sent):
    with behind_doors(0.2) as (_, server, address), opened(address) as connection:
        connection.sendall(sent)
        assert heard(connection) == b""
        wait_until(lambda: not server.server_state.connections)


def test_the_next_head_on_a_connection_is_not_waited_for_either():
    with behind_doors(0.2) as (_, _, address), opened(address) as connection:
        connection.sendall(request() + b"GET / HT")
        heard(connection, b"bytes")
        connection.sendall(b"TP/1.1\r\nHo")
        assert heard(connection) == b""


def test_an_answer_may_take_longer_than_a_head():
    with behind_doors(0.1) as (application, _, address), opened(address) as connection:
        connection.sendall(request("/slow"))
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(20.0)
        application.go_on.set()
        assert heard(connection, b"bytes").startswith(b"HTTP/1.1 200 ")


def test_the_rest_of_a_body_that_was_refused_is_read_for_its_time_so_that_its_client_hears_why():
    size = 2**25
    with behind_doors(2.0) as (_, _, address), opened(address) as connection:
        connection.sendall(request("/early", f"Content-Length: {size}"))
        for _ in range(2**5):
            connection.sendall(b" " * 2**20)
        connection.sendall(request())
        assert heard(connection, b"0 bytes").startswith(b"HTTP/1.1 413 ")
    with behind_doors(0.2) as (_, _, address), opened(address) as connection:
        connection.sendall(request("/early", f"Content-Length: {size}") + b"x")
        assert heard(connection).startswith(b"HTTP/1.1 413 ")


def test_connections_beyond_the_number_are_closed_and_the_next_ones_served():
    with behind_doors(limit_concurrency=8) as (_, server, address):
        held = [opened(address) for _ in range(20)]
        for connection in held[8:]:
            assert heard(connection) == b""
        held[0].sendall(request())
        assert heard(held[0], b"Unavailable").startswith(b"HTTP/1.1 503 ")
        for connection in held:
            connection.close()
        wait_until(lambda: not server.server_state.connections)
        with opened(address) as connection:
            connection.sendall(request())
            assert heard(connection, b"bytes").startswith(b"HTTP/1.1 200 ")


def test_there_may_be_as_many_connections_as_half_the_files():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = most_connections()
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert most <= MOST_CONNECTIONS
    assert 2 * most <= files


@pytest.mark.parametrize("path", ["/slow", "/stream"])
def test_a_client_that_has_said_everything_gets_its_answer(path):
    with behind_doors() as (application, server, address), opened(address) as connection:
        connection.sendall(request(path, body=b"four"))
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(1.0)
        if path == "/slow":
            with pytest.raises(TimeoutError):
                heard(connection)
        connection.settimeout(20.0)
        application.go_on.set()
        assert heard(connection).endswith(b"4 bytes" if path == "/slow" else b"last\n\r\n0\r\n\r\n")
        assert application.left == 0
        wait_until(lambda: not server.server_state.connections)


def test_so_does_one_that_has_asked_several_times():
    with behind_doors() as (application, _, address), opened(address) as connection:
        connection.sendall(request("/slow", body=b"1") + request("/slow", body=b"22") + request(body=b"333"))
        connection.shutdown(socket.SHUT_WR)
        application.go_on.set()
        said = heard(connection)
        assert [said.count(b"%d bytes" % size) for size in (1, 2, 3)] == [1, 1, 1]


@pytest.mark.parametrize("path", ["/slow", "/stream"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_client_that_has_left_is_noticed(path, version):
    with behind_doors() as (application, server, address):
        with opened(address) as connection:
            connection.sendall(request(path, body=b"four", version=version))
            wait_until(lambda: application.asked)
        wait_until(lambda: application.left == 1)
        wait_until(lambda: not server.server_state.tasks)
        assert application.asked == 1


@pytest.mark.parametrize("path", ["/slow", "/stream"])
def test_every_request_of_a_client_that_has_left_hears_so(path):
    with behind_doors() as (application, server, address):
        with opened(address) as connection:
            connection.sendall(request(path) * 3)
            wait_until(lambda: application.asked)
        wait_until(lambda: application.left == 1)
        wait_until(lambda: not server.server_state.tasks)
        assert application.asked == application.left == 1

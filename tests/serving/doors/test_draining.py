"""The end of a server: the door stays open for a no until the last answer is out."""

import threading

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("httptools")

from door_server import behind_doors, heard, opened, request, wait_until


def test_whoever_comes_is_told_no_until_the_last_answer_is_out():
    with behind_doors() as (application, server, address), opened(address) as kept, opened(address) as connection:
        kept.sendall(request())
        heard(kept, b"bytes")
        connection.sendall(request("/slow"))
        wait_until(lambda: application.asked == 2)
        server.handle_exit(15, None)
        wait_until(lambda: application.draining)
        for _ in range(3):
            with opened(address) as another:
                another.sendall(request())
                assert heard(another, b"no more").startswith(b"HTTP/1.1 503 ")
        kept.sendall(request())
        assert heard(kept, b"no more").startswith(b"HTTP/1.1 503 ")
        application.go_on.set()
        assert heard(connection).endswith(b"0 bytes")


def test_a_server_with_nothing_to_do_ends_at_once():
    with behind_doors() as (application, server, address), opened(address) as kept:
        kept.sendall(request())
        heard(kept, b"bytes")
        server.handle_exit(15, None)
        assert heard(kept) == b""
        assert application.draining


def test_an_answer_that_does_not_come_keeps_it_no_longer_than_its_bound():
    with behind_doors(timeout_graceful_shutdown=1) as (application, server, address), opened(address) as connection:
        connection.sendall(request("/slow"))
        wait_until(lambda: application.asked)
        ended = threading.Event()
        server.handle_exit(15, None)
        threading.Thread(target=lambda: (heard(connection), ended.set()), daemon=True).start()
        assert ended.wait(20.0)

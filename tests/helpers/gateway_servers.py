"""Servers in threads for the gateway's tests: the example's upstream, quick, and gateways before it."""

import importlib.util
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "gateway_upstream.py"


def example():
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("gateway_upstream", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def serving(app, port=0):
    """An ASGI application on a port of this machine; its address."""
    import uvicorn

    config = uvicorn.Config(
        app, port=port, log_level="critical", access_log=False, date_header=False, server_header=False, ws="none"
    )
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def wait_until(true, seconds=10.0):
    """Wait until something holds."""
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.005)

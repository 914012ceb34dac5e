"""The reference server that most of its tests ask: one tiny model a module, and the openai client."""

import pytest


@pytest.fixture(scope="module")
def runner():
    """A tiny model that fails as ordered; a test module skips before it comes here where torch is missing."""
    from running_server import tiny_runner

    return tiny_runner()


@pytest.fixture(scope="module")
def server(runner):
    """A service and its address."""
    from running_server import serving

    with serving(runner) as (service, url, _):
        yield service, url


@pytest.fixture
def client(server):
    """The openai client, which neither waits for ever nor tries again."""
    import openai

    _, url = server
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30.0) as client:
        yield client

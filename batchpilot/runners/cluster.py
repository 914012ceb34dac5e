"""A Ray cluster in place of processes, through joblib's Ray backend. Needs the extra `ray`."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from joblib import parallel_config

from batchpilot.core.extras import needing

ANSWER_TIMEOUT_S = 5.0
"""How long a cluster may take to accept a connection; Ray itself would go on trying for minutes."""


@contextmanager
def ray_cluster(address: str) -> Iterator[None]:
    """Within it, joblib's workers are actors of a Ray cluster.

    The workers need batchpilot installed, and every file that a task names under the same path.

    Args:
        address: `ray://HOST:10001` of a cluster, `auto` for the one this machine is a node of, `local` for one started
            here and ended with the run.

    Raises:
        MissingExtraError: Ray is not installed.
        ValueError: no cluster answers there.
    """
    with needing("a cluster", "ray"):
        import ray
        from ray.util.joblib import register_ray
    _check_that_it_answers(address)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(f"no Ray cluster at {address!r}: {error}") from error
    try:
        register_ray()
        with parallel_config(backend="ray"):
            yield
    finally:
        ray.shutdown()


def _check_that_it_answers(address: str) -> None:
    if not address.startswith("ray://"):
        return
    try:
        place = urlsplit(address)
        with socket.create_connection((place.hostname or "", place.port or 10001), ANSWER_TIMEOUT_S):
            pass
    except (OSError, ValueError) as error:
        raise ValueError(f"no Ray cluster at {address!r}: {error}") from None

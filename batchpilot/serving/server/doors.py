"""What stands before an application's routes: bounds on bodies, and who is answered where there is no token."""

from __future__ import annotations

from fastapi import FastAPI

from batchpilot.serving.server.authorisation import LocalOnly
from batchpilot.serving.server.batches.files import FILES_PATH, MOST_FILE_BYTES
from batchpilot.serving.server.config import ServerConfig
from batchpilot.serving.server.errors import TUNER_API
from batchpilot.serving.server.incoming import Bound, Incoming, request_bytes
from batchpilot.tuners.policy.file import MOST_BYTES


def bounds(config: ServerConfig, longest: int) -> tuple[Bound, dict[str, Bound]]:
    """How much a body may be, and other bounds by path.

    Args:
        config: of the server.
        longest: most tokens of a request.
    """
    seconds = config.body_s
    special = {f"{TUNER_API}/policy": Bound(MOST_BYTES, 4 * seconds)}
    if config.batch_folder is not None:
        special[FILES_PATH] = Bound(MOST_FILE_BYTES, 4 * seconds)
    return Bound(request_bytes(longest), seconds), special


def stand_before(app: FastAPI, config: ServerConfig, longest: int) -> None:
    """Let the application be reached by bounded bodies only, and without a token by this machine only.

    Args:
        app: the application.
        config: of the server.
        longest: most tokens of a request.
    """
    bound, special = bounds(config, longest)
    app.add_middleware(Incoming, bound=bound, special=special, most_bytes=1e6 * config.bodies_mb)
    if config.token is None:
        app.add_middleware(LocalOnly)

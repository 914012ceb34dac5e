"""`/gateway/canary`: how a roll-out stands, and POST to begin one or to take it back.

POST /gateway/canary {"version": 2, "from": 1}
POST /gateway/canary {"version": null}
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from batchpilot.serving.gateway.asgi import Receive, Scope, Send
from batchpilot.serving.gateway.own_routes import AskedError, answer_own

if TYPE_CHECKING:
    from batchpilot.serving.gateway.upstreams.pool import Pool

CANARY_PATH = "/gateway/canary"

_ASKED = 'send {"version": 2, "from": 1} to begin or {"version": null} to take it back, as application/json'


async def canary(pool: Pool, body_s: float, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request.

    Args:
        pool: of the upstreams.
        body_s: the body must have come within so long.
        scope: ASGI.
        receive: ASGI.
        send: ASGI.
    """
    change, status = partial(_change, pool), partial(_status, pool)
    await answer_own(CANARY_PATH, _ASKED, change, status, body_s, scope, receive, send)


def _status(pool: Pool) -> dict[str, Any]:
    return pool.ladder.status() if pool.ladder else {"verdict": "none"}


def _change(pool: Pool, asked: dict[str, Any]) -> None:
    if set(asked) == {"version"} and asked["version"] is None:
        if pool.ladder is None:
            raise AskedError(409, "there is no roll-out to take back", "no_rollout")
        pool.ladder.roll_back("taken back")
        return
    if set(asked) != {"version", "from"}:
        raise AskedError(400, f"the body asks for something else; {_ASKED}", "invalid_request")
    new, old = asked["version"], asked["from"]
    known = sorted({site.spec.version for site in pool.sites if site.spec.tier == 0})
    if type(new) is not int or type(old) is not int or new == old or new not in known or old not in known:
        raise AskedError(400, f"version {new!r} from {old!r}; upstreams have versions {known}", "unknown_version")
    if pool.ladder is not None and pool.ladder.verdict == "running":
        raise AskedError(409, f"version {pool.ladder.new} is being rolled out; take it back first", "rollout_runs")
    pool.roll_out(old, new)

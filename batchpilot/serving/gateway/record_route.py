"""`/gateway/record`: whether steps are recorded, and POST to begin and to end it.

    POST /gateway/record {"recording": true}

Where steps go is the operator's choice when the gateway starts, not a client's: a request names no file.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from batchpilot.serving.gateway.asgi import Receive, Scope, Send
from batchpilot.serving.gateway.own_routes import AskedError, answer_own
from batchpilot.serving.recording import StepRecorder

RECORD_PATH = "/gateway/record"

_ASKED = 'send {"recording": true} to begin or {"recording": false} to end, as application/json'


async def record(recorder: StepRecorder, body_s: float, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request.

    Args:
        recorder: which writes.
        body_s: the body must have come within so long.
        scope: ASGI.
        receive: ASGI.
        send: ASGI.
    """
    change, status = partial(_change, recorder), partial(recording_status, recorder)
    await answer_own(RECORD_PATH, _ASKED, change, status, body_s, scope, receive, send)


def recording_status(recorder: StepRecorder) -> dict[str, Any]:
    """What is known of a recording, as plain data.

    Args:
        recorder: which writes.
    """
    return {
        "recording": recorder.recording,
        "record_file": str(recorder.path.absolute()),
        "recorded_steps": recorder.steps,
        "record_fault": recorder.fault,
    }


def _change(recorder: StepRecorder, asked: dict[str, Any]) -> None:
    if set(asked) != {"recording"} or not isinstance(asked["recording"], bool):
        raise AskedError(400, f"the body asks for something else; {_ASKED}", "invalid_request")
    try:
        (recorder.start if asked["recording"] else recorder.stop)()
    except (OSError, ValueError) as error:
        raise AskedError(409, f"steps cannot be recorded: {error}", "cannot_record") from None

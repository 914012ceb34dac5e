"""How a refusal travels from vLLM's scheduler to its API server: the one thing that differs between the known versions.

From 0.33 on an engine's output has a field for a retryable error, which the API server answers with 503. Before that it
answers any error with 500. There a refusal travels as a stop reason, and `install`, which vLLM calls in each of its
processes (`vllm.general_plugins`), has the API server read it as it reads its own "the queue is full": 503.
"""

from __future__ import annotations

import functools
import logging
import os
from importlib.metadata import entry_points
from typing import Any

from batchpilot.serving.adapters.versions import installed_version, numbers

PLUGIN_GROUP, PLUGIN = "vllm.general_plugins", "batchpilot"
FIRST_WITH_ERRORS = (0, 33)
MARK = "batchpilot "
"""Begins the stop reason that tells of a refusal."""

_LOG = logging.getLogger(__name__)


def output_has_error(vllm_version: str) -> bool:
    """Whether an engine's output can say that a request failed and may be tried again.

    Args:
        vllm_version: as the package tells it.
    """
    return numbers(vllm_version) >= FIRST_WITH_ERRORS


def refusal(request: Any, reason: str, message: str) -> Any:
    """What the engine core sends to end a request that is refused.

    Args:
        request: vLLM's.
        reason: short name.
        message: for the client.
    """
    import vllm
    from vllm.v1.engine import EngineCoreOutput, FinishReason

    ended = {"finish_reason": FinishReason.ERROR, "trace_headers": request.trace_headers}
    if output_has_error(vllm.__version__):
        from vllm.outputs import RequestError

        ended["error"] = RequestError(code=reason, message=message, retryable=True)
    else:
        ended["stop_reason"] = MARK + message
    return EngineCoreOutput(request.request_id, [], events=request.take_events(), **ended)


def check_answerable(vllm_version: str) -> None:
    """Refuse to start where a refusal would become a 500.

    Args:
        vllm_version: as the package tells it.

    Raises:
        RuntimeError: this vLLM needs the plugin, and does not find it or may not load it.
    """
    if output_has_error(vllm_version):
        return
    allowed = os.environ.get("VLLM_PLUGINS")
    known = {entry.name for entry in entry_points(group=PLUGIN_GROUP)}
    if PLUGIN not in known or (allowed is not None and PLUGIN not in allowed.split(",")):
        raise RuntimeError(
            f"vLLM {vllm_version} answers 500 where a scheduler refuses, unless it loads the plugin {PLUGIN!r}: "
            f"install batchpilot in vLLM's environment (a folder on PYTHONPATH is not enough), and name {PLUGIN} in "
            f"VLLM_PLUGINS if you set that (it is {allowed!r})"
        )


def install() -> None:
    """Have this process's API server answer refusals with 503. vLLM calls it; it never raises."""
    try:
        if not output_has_error(installed_version("vllm") or "0"):
            from vllm.v1.engine.output_processor import OutputProcessor

            if not hasattr(OutputProcessor.process_outputs, "__wrapped__"):
                OutputProcessor.process_outputs = _telling(OutputProcessor.process_outputs)
    except Exception:  # noqa: BLE001 - a server that does not use the adapter must not notice us
        _LOG.exception("batchpilot's refusals will be answered with 500")


def _telling(process_outputs: Any) -> Any:
    """`OutputProcessor.process_outputs` that first tells the clients of refused requests."""

    @functools.wraps(process_outputs)
    def telling(processor: Any, outputs: Any, *arguments: Any, **options: Any) -> Any:
        parents = []
        for output in outputs:
            if str(output.stop_reason).startswith(MARK) and (state := processor.request_states.get(output.request_id)):
                if state.queue is not None:  # from here on the queue takes nothing else
                    state.queue.put(_refused(str(output.stop_reason).removeprefix(MARK)))
                if state.parent_req is not None:
                    parents.append(state.parent_req.request_id)
        processed = process_outputs(processor, outputs, *arguments, **options)
        if parents:  # the other texts of a request for several are not worth generating
            processed.reqs_to_abort.extend(processor.abort_requests(parents, internal=True))
        return processed

    return telling


def _refused(message: str) -> Exception:
    """What vLLM's request handlers turn into a 503, and its streams into an event that says so."""
    from http import HTTPStatus

    from vllm.exceptions import GenerationError, GracefulHTTPError

    class RefusedError(GracefulHTTPError, GenerationError):  # type: ignore[misc] # vLLM is not installed here
        """The first has it pass the engine's client untouched, the second keeps stack traces out of the log."""

        def __init__(self) -> None:
            Exception.__init__(self, message)
            self.message = message
            self.http_status = self.status_code = HTTPStatus.SERVICE_UNAVAILABLE

    return RefusedError()

"""A server's command line as part of a manifest: what to lay over the file that deploys it.

Lists are replaced where such files are merged, so a patch holds the whole command line, its other flags as they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batchpilot.core.limits import Limits
from batchpilot.serving.formats.flags.base import ServerFlags, Started

_ADDRESS = ("--port", "--host")


def compose(name: str, server: ServerFlags, started: Started, limits: Limits) -> dict[str, Any]:
    """An override for `docker compose -f compose.yaml -f THIS up`.

    Args:
        name: of the service.
        server: whose command it is.
        started: the command as it was.
        limits: instead of its own.
    """
    command = [*server.arguments(started), *server.flags(limits)]
    return {"services": {name: {"entrypoint": list(started.program), "command": command}}}


def kubernetes(name: str, server: ServerFlags, started: Started, limits: Limits) -> dict[str, Any]:
    """A strategic merge patch of a Deployment, for `kubectl patch deployment NAME --patch-file THIS` or kustomize.

    Args:
        name: of the Deployment and of its container.
        server: whose command it is.
        started: the command as it was.
        limits: instead of its own.
    """
    arguments = [*server.arguments(started), *server.flags(limits)]
    container = {"name": name, "command": list(started.program), "args": arguments}
    pods = {"template": {"spec": {"containers": [container]}}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": pods}


def llm_d(name: str, server: ServerFlags, started: Started, limits: Limits) -> dict[str, Any]:
    """Values of llm-d's `llm-d-modelservice` chart, which writes the program, the model and the port itself.

    Args:
        name: of the container.
        server: whose command it is; vLLM.
        started: the command as it was.
        limits: instead of its own.

    Raises:
        ValueError: another server.
    """
    if server.name != "vllm":
        raise ValueError(f"llm-d's chart starts vLLM, not {server.name}; kubernetes writes a patch of a Deployment")
    arguments = [*started.without(*_ADDRESS), *server.flags(limits)]
    return {"decode": {"containers": [{"name": name, "modelCommand": "vllmServe", "args": arguments}]}}


def dynamo(name: str, server: ServerFlags, started: Started, limits: Limits) -> dict[str, Any]:
    """A merge patch of Dynamo's graph deployment: the arguments of its worker, whose port Dynamo sets.

    Args:
        name: of the worker's service.
        server: whose command it is.
        started: the command as it was.
        limits: instead of its own.
    """
    server.arguments(started)  # refuses what flags would not change
    model = [f"--{server.model[0]}", started.model] if server.positional and started.model else []
    arguments = [*model, *started.without(*_ADDRESS), *server.flags(limits)]
    worker = {"extraPodSpec": {"mainContainer": {"args": arguments}}}
    return {"apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoGraphDeployment", "spec": {"services": {name: worker}}}


MANIFESTS: dict[str, Callable[[str, ServerFlags, Started, Limits], dict[str, Any]]] = {
    "compose": compose,
    "kubernetes": kubernetes,
    "llm-d": llm_d,
    "dynamo": dynamo,
}
"""Writers by name."""

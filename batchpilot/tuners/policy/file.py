"""Reading a policy file: size, seal, structure and meaning are checked in this order, the cheapest first."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from batchpilot.tuners.policy.description import PolicyDescription
from batchpilot.tuners.policy.graph import read_model
from batchpilot.tuners.policy.network import Network
from batchpilot.tuners.policy.seal import sealed_digest

MOST_BYTES = 64 * 2**20
"""Of a policy, from a file or uploaded. Two hidden layers of 64 take about 40 kB; this holds layers of thousands and
stops a mistaken path."""


@dataclass(frozen=True, eq=False)
class PolicyFile:
    """A policy as its file holds it.

    Attributes:
        network: what decides.
        description: what it is and where it comes from.
        digest: SHA-256 of the content, which tells policies apart.
        opset: the ONNX operators' version.
        producer: what wrote it.
        size_bytes: size of the file.
    """

    network: Network
    description: PolicyDescription
    digest: str
    opset: int
    producer: str
    size_bytes: int


def read_policy(path: str | Path) -> PolicyFile:
    """Read and check a policy file.

    Args:
        path: what `batchpilot export` wrote.

    Raises:
        ValueError: it is no policy, damaged, or made for other features; the message names the file and the reason.
        OSError: it cannot be read.
    """
    path = Path(path)
    try:
        return parse_policy(_read_bounded(path))
    except ValueError as error:
        raise ValueError(f"{path} cannot be loaded as a policy: {error}") from None


def parse_policy(data: bytes) -> PolicyFile:
    """A policy from the bytes of its file.

    Args:
        data: the whole file.

    Raises:
        ValueError: as `read_policy`, without the file's name.
    """
    digest = sealed_digest(data)
    model = read_model(data)
    description = PolicyDescription.from_metadata(model.metadata)
    network, table = model.network, description.table
    expected = description.stack * len(description.feature_names)
    if network.inputs != expected:
        raise ValueError(
            f"the network reads {network.inputs} numbers; {description.stack} windows of "
            f"{len(description.feature_names)} features are {expected}"
        )
    if network.sizes != table.sizes:
        raise ValueError(
            f"the network chooses among {list(network.sizes)} actions; the table of {', '.join(table.fields)} "
            f"has {list(table.sizes)}"
        )
    return PolicyFile(network, description, digest, model.opset, model.producer, len(data))


def _read_bounded(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES // 2**20} MiB, which no policy is")
    return data

"""Export: a training folder in, one checked policy file out. Needs the extra `rl`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from batchpilot.agents.export.check import check_decisions, observations_to_check
from batchpilot.agents.export.model import to_bytes
from batchpilot.agents.export.training import load_training
from batchpilot.core.files import write_atomic
from batchpilot.tuners.policy.description import PolicyDescription
from batchpilot.tuners.policy.file import PolicyFile, parse_policy
from batchpilot.tuners.policy.network import Floats, Network


class Exported(NamedTuple):
    """What an export wrote.

    Attributes:
        path: the file.
        policy: the file as a server reads it.
        checked: observations on which it decides as the trained policy does.
    """

    path: Path
    policy: PolicyFile
    checked: int


def export_policy(
    folder: str | Path, out: str | Path, *, overwrite: bool = False, observations: Floats | None = None
) -> Exported:
    """Write a trained policy as one file that a server can load.

    The same folder gives the same bytes. The file is written only when it decides as the trained policy does.

    Args:
        folder: holds `model.zip` and `policy.json`; only open folders of your own, since the first is unpickled.
        out: where to write, by custom with the suffix `.onnx`.
        overwrite: whether a file that is there may be replaced.
        observations: raw, shape (n, k * F), that decisions are compared on; None takes random and recorded ones.

    Raises:
        ValueError: the folder is no training, the policy cannot be exported or decides otherwise, or the file is there.
        OSError: a file is missing or cannot be written.
    """
    refuse_to_replace(out, overwrite)
    trained = load_training(folder)
    described = trained.description
    if observations is None:
        observations = observations_to_check(described.stack, len(described.feature_names))
    return write_checked(trained.network, described, trained.decide, out, overwrite, observations)


def write_checked(
    network: Network,
    description: PolicyDescription,
    decide: Callable[[Floats], np.ndarray],
    out: str | Path,
    overwrite: bool,
    observations: Floats,
) -> Exported:
    """Write a network as a policy file, if it decides as what it was made of does.

    Args:
        network: what the file shall hold.
        description: of it.
        decide: what it was made of, from raw observations of shape (n, k * F) to actions of shape (n, fields).
        out: where to write.
        overwrite: whether a file that is there may be replaced.
        observations: that decisions are compared on.

    Raises:
        ValueError: network and description do not fit each other, a decision differs, or the file is there.
        OSError: the file cannot be written.
    """
    refuse_to_replace(out, overwrite)
    data = to_bytes(network, description)
    check_decisions(data, decide, observations)
    return Exported(write_atomic(Path(out), data), parse_policy(data), len(observations))


def refuse_to_replace(out: str | Path, overwrite: bool) -> None:
    """Refuse to write where something is.

    Args:
        out: where to write.
        overwrite: whether a file that is there may be replaced.

    Raises:
        ValueError: the file is there, and may not.
    """
    if Path(out).exists() and not overwrite:
        raise ValueError(f"{out} is there already; allow overwriting it, or give another name")

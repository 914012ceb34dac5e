"""Export: a training folder in, one checked policy file out. Needs the extra `rl`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from batchpilot.agents.export.check import check_decisions, observations_to_check
from batchpilot.agents.export.model import to_bytes
from batchpilot.agents.export.training import load_training
from batchpilot.core.files import write_atomic
from batchpilot.tuners.policy.file import PolicyFile, parse_policy
from batchpilot.tuners.policy.network import Floats


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
    out = Path(out)
    if out.exists() and not overwrite:
        raise ValueError(f"{out} is there already; allow overwriting it, or give another name")
    trained = load_training(folder)
    data = to_bytes(trained.network, trained.description)
    samples = observations_to_check(trained.description.stack) if observations is None else observations
    check_decisions(data, trained.decide, samples)
    return Exported(write_atomic(out, data), parse_policy(data), len(samples))

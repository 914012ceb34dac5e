"""How much faster is one revision than another? Both run the same work in turn; the table is of ratios, old over new.

    python benchmarks/against_revision.py 4ffc503 HEAD --work fit session
    python benchmarks/against_revision.py main . --in builds       # a folder is taken as it stands; builds/ is kept

Each revision is checked out into a folder of its own and gets a process of its own, which imports the package from
there and does the work once before it counts: kernels are compiled then. Then old and new take turns, one waiting while
the other works. A ratio is the median over the pairs, and above 1 the new revision is better. `revision/` holds the
works. The peer simulator (Vidur) is in no package registry, so the ratio to it is not made here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from revision.side import NotAvailableError
from revision.work import WORKS

BENCHMARKS = Path(__file__).parent.resolve()


class Side:
    """One revision at work in a process of its own.

    Args:
        name: old or new, for messages.
        root: its checkout.
        traces: folder of the published traces.
    """

    def __init__(self, name: str, root: Path, traces: Path) -> None:
        self.name = name
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(root), str(BENCHMARKS)))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "revision.work", str(root), str(traces.resolve())],
            cwd=root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, work: str) -> dict[str, Any]:
        """Do a work once.

        Args:
            work: its name.

        Returns:
            Its figure under "value", and what else it tells.

        Raises:
            NotAvailableError: this side cannot do it.
            RuntimeError: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(work, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of the {self.name} revision has ended; its error is above")
        told: dict[str, Any] = json.loads(answer)
        if "missing" in told:
            raise NotAvailableError(f"{self.name}: {told['missing']}")
        return told

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def checkout(revision: str, folder: Path) -> Path:
    """A revision's files: a folder that exists as it is, else a worktree made (or found) below `folder`.

    Args:
        revision: as git knows it, or a path.
        folder: where checkouts go.
    """
    if Path(revision).is_dir():
        return Path(revision).resolve()
    commit = git("rev-parse", "--verify", f"{revision}^{{commit}}")
    root = folder.resolve() / commit[:12]
    if not root.exists():
        git("worktree", "add", "--detach", "--force", str(root), commit)
    return root


def git(*arguments: str) -> str:
    """What a git command says, run in this repository."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def compare(work: str, old: Side, new: Side, pairs: int) -> str:
    """One line of the table.

    Args:
        work: its name.
        old: the one side.
        new: the other.
        pairs: how often each does it.
    """
    try:
        old.do(work)
        new.do(work)
        told = [(old.do(work), new.do(work)) for _ in range(pairs)]
    except NotAvailableError as error:
        return f"{work:16} not made: {error}"
    before, after = ([answer[side]["value"] for answer in told] for side in (0, 1))
    rate = WORKS[work].more_is_better
    ratios = [b / a if rate else a / b for a, b in zip(before, after, strict=True)]
    notes = [{name: said for name, said in answer.items() if name != "value"} for answer in told[-1]]
    said = "" if not notes[0] else f"  {notes[0]}" if notes[0] == notes[1] else f"  {notes[0]} -> {notes[1]}"
    figures = f"{statistics.median(before):12.4g} {statistics.median(after):12.4g} {WORKS[work].unit:12}"
    spread = f"{statistics.median(ratios):7.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"
    return f"{work:16} {figures} {spread}{said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="a revision, or a folder")
    parser.add_argument("new", help="likewise")
    parser.add_argument("--work", nargs="+", choices=list(WORKS), default=list(WORKS), metavar="NAME")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"), help="folder of the published traces")
    parser.add_argument("--in", dest="folder", type=Path, help="keep the checkouts, and their compiled kernels, here")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as passing:
        folder = options.folder or Path(passing)
        roots = [checkout(revision, folder) for revision in (options.old, options.new)]
        sides = [Side(name, root, options.traces) for name, root in zip(("old", "new"), roots, strict=True)]
        print(f"{'work':16} {'old':>12} {'new':>12} {'':12} {'ratio':>8} (of the pairs)")
        try:
            for work in options.work:
                print(compare(work, *sides, options.pairs), flush=True)
        finally:
            for side in sides:
                side.close()
    if options.folder is None:
        git("worktree", "prune")
    print(f"ratios of {options.new} to {options.old}: medians of {options.pairs} pairs, above 1 is better")


if __name__ == "__main__":
    main()

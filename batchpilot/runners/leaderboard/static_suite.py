"""`python -m batchpilot.runners.leaderboard.static_suite`: the fixed setting that is best over the training suite."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from joblib import Parallel, delayed
from numpy.typing import NDArray

from batchpilot.baselines.references.static_suite import SHIPPED, best_on_average, goodputs, suite_grid, write_settings
from batchpilot.configs.recordings import with_recording
from batchpilot.configs.scenario import Scenario, suite
from batchpilot.configs.seeds import seeds_of
from batchpilot.core.files import write_atomic
from batchpilot.core.limits import TRACKS
from batchpilot.core.provenance import config_hash, provenance
from batchpilot.envs.scenarios import prepare
from batchpilot.runners.options import reporting_mistakes

SUITE = "train"

_SINCE: Any = {
    "parameters": True,
    "promise": True,
    "engine": {"prefix_cache", "vision", "speculation"},
    "workload": {"sharing", "conversations", "images"},
}
"""What scenarios did not say when the shipped settings were searched; none of the suite's says it."""


def scored(scenario: Scenario, seed: int, cache: Path) -> NDArray[np.float64]:
    """Goodput share of every setting on one run, kept on disk by a fingerprint of all that it depends on.

    Args:
        scenario: a training scenario.
        seed: its seed.
        cache: folder of what is kept.

    Returns:
        Shape (settings of the largest grid,).
    """
    grid = [limits.to_dict() for limits in suite_grid("guarded")]
    path = cache / f"{scenario.name}--{seed}--{config_hash([scenario.model_dump(), seed, grid, provenance()])}.txt"
    if not path.exists():
        write_atomic(path, "\n".join(map(repr, goodputs(prepare(scenario, seed)).tolist())))
    return np.loadtxt(path)


@reporting_mistakes
def main(
    traces: Annotated[Path, typer.Option(help="Folder of the published traces.")],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each training scenario.")] = 2,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    out: Annotated[Path, typer.Option(help="File to write.")] = SHIPPED,
    cache: Annotated[Path, typer.Option(help="Folder of finished runs.")] = Path("reports/static-suite"),
) -> None:
    """Try every setting of the largest grid on every training run; write the best on average of each track."""
    scenarios = [with_recording(one, traces) for one in suite(SUITE)]
    runs = [(one, seed) for one in scenarios for seed in seeds_of(SUITE, 0, seeds)]
    shares = Parallel(n_jobs=jobs)(delayed(scored)(one, seed, cache) for one, seed in runs)
    settings = {track: best_on_average(shares, track) for track in TRACKS}
    origin = {
        "suite": SUITE,
        "scenarios": len(scenarios),
        "seeds": seeds,
        "scenarios_hash": config_hash([one.model_dump(exclude=_SINCE) for one in suite(SUITE)]),
        **{name: value for name, value in provenance().items() if value is not None},
        "command": "python -m batchpilot.runners.leaderboard.static_suite " + shlex.join(sys.argv[1:]),
    }
    write_settings(out, settings, origin)
    for track, (limits, share) in settings.items():
        typer.echo(f"{track:8s} {share:.4f}  {limits}")


if __name__ == "__main__":
    typer.run(main)

"""A real engine for `leaderboard` and `compare`: started, calibrated, and remembered beside the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchpilot.core.files import write_json
from batchpilot.core.limits import Limits
from batchpilot.core.names import lookup
from batchpilot.engines.simulated.step_design import MeasuredTrial
from batchpilot.envs.backends import BACKENDS, SIMULATED
from batchpilot.envs.torch_backend import DEFAULT_MODEL, TorchBackend
from batchpilot.latency.fitting.saturation_fit import fit
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.selection import Changes
from batchpilot.runners.torch.calibration import FIXED, TorchServer, all_steps, judge_held_out, measure, plan_trials
from batchpilot.runners.torch.clock import Clock, step_clock
from batchpilot.runners.torch.options import shown

if TYPE_CHECKING:
    from batchpilot.engines.torch import ModelRunner

LARGEST = Limits(256, token_budget=2048)
"""What is calibrated where the KV cache holds it: what servers ship."""

TRIALS = 16
REPEATS = 2
_TOKENS_A_REQUEST = 64

BackendOption = Annotated[str, typer.Option("--backend", help=f"What runs the steps: {', '.join(BACKENDS)}.")]

TORCH_DTYPES = dict.fromkeys(("float32", "bfloat16", "float16", "int8"))

Show = Callable[[Iterable[MeasuredTrial]], Iterable[MeasuredTrial]]


def chosen_server(
    backend: str,
    changes: Changes,
    threads: int | None,
    kv_capacity_tokens: int | None,
    simulated_only: Mapping[str, bool] = MappingProxyType({}),
) -> TorchServer | None:
    """The real engine that a command line asks for.

    Args:
        backend: as typed.
        changes: its model (preset, folder or name; None for the small preset), torch device and type of the weights
            (None for float32).
        threads: processor threads.
        kv_capacity_tokens: KV tokens to set aside.
        simulated_only: whether each option that only the simulation has was given, by its name.

    Returns:
        What to start; None for the simulation.

    Raises:
        ValueError: an unknown backend, or an option that it does not have.
    """
    lookup(BACKENDS, backend, "backend")
    own = {"--threads": threads, "--kv-capacity-tokens": kv_capacity_tokens}
    simulated = backend == SIMULATED
    given = [name for name, value in own.items() if value is not None]
    given = given if simulated else [name for name, was_given in simulated_only.items() if was_given]
    if given:
        raise ValueError(f"{', '.join(given)} cannot be given with --backend {backend}")
    if simulated:
        return None
    dtype = changes.dtype or "float32"
    lookup(TORCH_DTYPES, dtype, "dtype of --backend torch")
    return TorchServer(changes.model or DEFAULT_MODEL, changes.device, dtype, threads, kv_capacity_tokens)


@dataclass(frozen=True, slots=True)
class KnownEngine:
    """What an interrupted run must find again to go on: the same capacity and the same idea of the step latency.

    Attributes:
        kv_capacity_tokens: KV tokens set aside.
        latency: parameters as calibrated.
        source: where they come from.
    """

    kv_capacity_tokens: int
    latency: SaturationParameters
    source: str

    def save(self, path: Path) -> None:
        """Write it as JSON.

        Args:
            path: the file.
        """
        data = {"kv_capacity_tokens": self.kv_capacity_tokens, "source": self.source, "latency": self.latency.to_dict()}
        write_json(path, data)

    @classmethod
    def load(cls, path: Path) -> KnownEngine:
        """Read what `save` wrote.

        Args:
            path: the file.

        Raises:
            ValueError: not such a file.
            OSError: it cannot be read.
        """
        try:
            data: dict[str, Any] = json.loads(path.read_text())
            latency = SaturationParameters.from_dict(data["latency"])
            return cls(int(data["kv_capacity_tokens"]), latency, str(data["source"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} does not describe an engine, or is damaged ({error!r}); --overwrite starts anew"
            ) from None


def start_backend(
    server: TorchServer,
    *,
    parameters: Path | None = None,
    remembered: Path | None = None,
    resume: bool = False,
    seed: int = 0,
    show: Show = iter,
) -> TorchBackend:
    """A real engine, its step latency known, on the clock that `step_clock` chooses.

    Args:
        server: the model and its device.
        parameters: what `calibrate --out` wrote; None calibrates now.
        remembered: file that keeps the engine's capacity and latency for a later `resume`; None keeps nothing.
        resume: take them from there, where the file exists.
        seed: of the calibration's design.
        show: passes the calibration's runs on and shows progress.

    Raises:
        ValueError: torch is missing, the model cannot be served as asked, or a file is wrong.
        OSError: a file cannot be read.
    """
    if resume and remembered is not None and remembered.exists():
        known = KnownEngine.load(remembered)
        runner = replace(server, kv_capacity_tokens=known.kv_capacity_tokens).start()
        clock, told = step_clock(runner)
    else:
        given = None if parameters is None else SaturationParameters.from_yaml(parameters)
        runner = server.start()
        clock, told = step_clock(runner)
        latency, source = (
            calibrated(runner, clock, seed=seed, show=show) if given is None else (given, f"read from {parameters}")
        )
        known = KnownEngine(runner.kv_capacity_tokens, latency, source)
    if remembered is not None:
        known.save(remembered)
    return TorchBackend(
        runner,
        model_name=server.model,
        latency=known.latency,
        latency_source=f"{known.source}, {told}",
        clock=clock,
    )


def calibrated(
    runner: ModelRunner, clock: Clock, *, seed: int = 0, show: Show = iter
) -> tuple[SaturationParameters, str]:
    """The step latency of a runner, from a few seconds of measuring, and a line on how good it is.

    Args:
        runner: the model.
        clock: seconds.
        seed: of the design.
        show: passes the runs on and shows progress.

    Raises:
        ValueError: the KV cache holds no request.
    """
    batch = max(1, min(LARGEST.batch_size, runner.kv_capacity_tokens // _TOKENS_A_REQUEST))
    largest = replace(LARGEST, batch_size=batch)
    design = plan_trials(runner, largest, TRIALS, seed)
    runs = measure(runner, design, repeats=REPEATS, seed=seed, show=show, clock=clock)
    held_out = judge_held_out(runs, FIXED)
    off = "" if held_out is None else f", off by {held_out.mape:.1%} on average where it was not fitted"
    found = fit(all_steps(runs), seed=seed, fixed=FIXED).parameters
    return found, f"calibrated just before on {TRIALS} workloads measured {REPEATS} times{off}"


def shown_calibration(runs: Iterable[MeasuredTrial]) -> Iterable[MeasuredTrial]:
    """The calibration's runs passed on, with a bar on a terminal.

    Args:
        runs: as they are measured.
    """
    return shown(runs, TRIALS * REPEATS)

"""What `batchpilot serve` was told of promises, and of who sets the limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from batchpilot.baselines import SERVER_DEFAULT, Setting
from batchpilot.configs import TunerConfig
from batchpilot.core.limits import Limits
from batchpilot.core.names import lookup
from batchpilot.core.slo import SLO, SLO_CLASSES
from batchpilot.latency.model.parameter_file import read_parameters
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.options import refuse
from batchpilot.runners.selection import check_promise, chosen_tuner, find_tuner_config, parse_limits
from batchpilot.serving.rollout.control import make_setting
from batchpilot.tuners import DEFAULT_TUNER

if TYPE_CHECKING:
    from batchpilot.engines.torch import ModelRunner


def promised(context: typer.Context, slo: str, ttft_ms: float | None, tpot_ms: float | None) -> SLO:
    """The promise of requests that name none.

    Args:
        context: of the command.
        slo: class, as typed.
        ttft_ms: target instead of the class's.
        tpot_ms: likewise.

    Raises:
        ValueError: no such class, a target that nobody can keep, or a class that both targets overrule.
    """
    of_class = lookup(SLO_CLASSES, slo, "SLO class")
    check_promise(ttft_ms, tpot_ms)
    if ttft_ms is not None and tpot_ms is not None:
        refuse(context, "with --ttft-ms and --tpot-ms", "slo")
    return SLO(of_class.ttft_ms if ttft_ms is None else ttft_ms, of_class.tpot_ms if tpot_ms is None else tpot_ms, slo)


@dataclass(frozen=True)
class Decides:
    """Who sets the limits.

    Attributes:
        tuner: its name.
        constant: limits that hold before it has decided, or all along.
        config: its configuration.
        track: the fields it may move.
        latency: step latency that beliefs begin with; None for what the engine's warm-up measures.
        latency_stage: how far what is learned of it is believed.
    """

    tuner: str
    constant: Limits
    config: TunerConfig
    track: str
    latency: SaturationParameters | None
    latency_stage: str

    @classmethod
    def of(
        cls, context: typer.Context, tuner: str | None, config: str | None, limits: str | None, parameters: Path | None
    ) -> Decides:
        """Who was asked for.

        Args:
            context: of the command, which holds `track` and `latency_stage`.
            tuner: as typed.
            config: preset or file.
            limits: constant ones instead.
            parameters: file of the step latency.

        Raises:
            ValueError: a name is unknown, a file is wrong, or an option would change nothing.
            OSError: a file cannot be read.
        """
        if limits is not None:
            refuse(context, "with --limits", "tuner", "track", "config", "parameters")
            tuner = "static"
        constant = SERVER_DEFAULT if limits is None else parse_limits(limits)
        section = find_tuner_config(config)
        tuner = chosen_tuner(tuner, config, section, DEFAULT_TUNER)
        latency = None if parameters is None else read_parameters(parameters).parameters
        return cls(tuner, constant, section, context.params["track"], latency, context.params["latency_stage"])

    def setting(self, promise: SLO, runner: ModelRunner, seed: int) -> Setting:
        """What tuners are built for.

        Args:
            promise: of requests that name none.
            runner: the model.
            seed: of the tuners' draws.

        Raises:
            ValueError: no such track or stage.
        """
        made = make_setting(
            self.config,
            slo=promise,
            seed=seed,
            track=self.track,
            latency=self.latency or runner.latency,
            latency_stage=self.latency_stage,
            memory=runner.memory,
        )
        return replace(made, base=self.constant)

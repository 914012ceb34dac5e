"""What an operator may do to a running server's tuner, without a word of HTTP. Refused changes change nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchpilot.baselines import SERVER_DEFAULT, Setting, StaticTuner
from batchpilot.configs.errors import ConfigError
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import SLO, TRACKS, Tuner
from batchpilot.core.names import lookup
from batchpilot.serving.rollout.shadow import Shadow
from batchpilot.serving.rollout.staged import StagedTuner
from batchpilot.serving.session.session import TunerSession
from batchpilot.tuners import TUNERS, NotObeyedError, build_tuner, tuner_name
from batchpilot.tuners.policy.file import MOST_BYTES, parse_policy
from batchpilot.tuners.policy.loading import policy_tuner

if TYPE_CHECKING:
    from batchpilot.engines.memory import MemoryModel
    from batchpilot.latency.model.saturation import SaturationParameters

POLICY = "policy"


class NotForThisTunerError(Exception):
    """The tuner in force has no such command; the message says which have."""


def make_setting(
    config: TunerConfig | None = None,
    *,
    slo: SLO | None = None,
    seed: int = 0,
    track: str = "limits",
    latency: SaturationParameters | None = None,
    latency_stage: str = "full",
    memory: MemoryModel | None = None,
) -> Setting:
    """What a server's tuners are built for: they start from what servers ship.

    Args:
        config: the `dynamic_batch_tuner` section; None for the defaults.
        slo: the promise of requests that do not say.
        seed: of the tuners' draws.
        track: the fields they may move.
        latency: what is believed of the engine's step latency, None for nothing.
        latency_stage: how far what is learned of it is believed: offline, shadow, partial or full.
        memory: where the device's memory goes, None for unknown.

    Raises:
        ValueError: no such track or stage.
    """
    if latency_stage != "full":
        from batchpilot.latency.online.stages import stage_share  # loads numba, which a server's import must not

        stage_share(latency_stage, 0.0)
    beginning = config or TunerConfig(), SERVER_DEFAULT, slo, seed, _known_track(track), latency
    return Setting(*beginning, latency_stage=latency_stage, memory=memory)


def tuner_by_name(name: str, setting: Setting) -> Tuner:
    """A tuner as typed on a command line or sent to the API.

    Args:
        name: a key of `TUNERS`, or `policy:FILE.onnx`.
        setting: what it is built for.

    Raises:
        ValueError: no such tuner, or the policy cannot be loaded.
        OSError: the policy file cannot be read.
    """
    if name.startswith(f"{POLICY}:"):
        return build_tuner(POLICY, setting, path=name.removeprefix(f"{POLICY}:"))
    return build_tuner(name, setting)


class TunerControl:
    """The operator's hand on a session's tuner.

    Args:
        name: the tuner that begins, as `tuner_by_name` takes it.
        setting: what it and all later ones are built for.

    Attributes:
        staged: the tuner to give to the session; it holds whoever decides, is on trial or advises.

    Raises:
        ValueError: the tuner cannot be built.
    """

    def __init__(self, name: str, setting: Setting) -> None:
        self._setting = setting
        self._lock = threading.Lock()
        self._name = tuner_name(name)
        self.staged = StagedTuner(tuner_by_name(name, setting))
        self._session: TunerSession | None = None

    def attach(self, session: TunerSession) -> None:
        """Control the tuner of this session from now on.

        Args:
            session: made with `staged`.
        """
        self._session = session

    @property
    def config(self) -> TunerConfig:
        """The configuration in force."""
        decider = self.staged.decider
        return getattr(decider, "config", None) or self._setting.config

    def configure(self, changes: Mapping[str, Any]) -> TunerConfig:
        """Change the configuration; a tuner that cannot take changes as it runs starts anew under the new one.

        Args:
            changes: any subset of the `dynamic_batch_tuner` section.

        Returns:
            The configuration now in force.

        Raises:
            ConfigError: the result would not be valid.
        """
        with self._lock:
            config = self.config.updated(changes)
            _check_threshold(changes)
            changed = replace(self._setting, config=config)
            update = getattr(self.staged.decider, "update_config", None)
            if "strategy" in changes:
                self._name = config.strategy
            if update is not None:
                self._do(lambda: update(dict(changes)))
            elif changes:
                # A tuner that is disabled leaves the limits as they are, wherever it had got to.
                now = self.staged.decider.ask()
                tuner = tuner_by_name(self._name, changed) if config.enabled else StaticTuner(now, "disabled")
                self._do(lambda: self.staged.decide_by(tuner))
            self._setting = changed
            return changed.config

    def reset(self) -> str:
        """The tuner forgets everything learned; one that has a safe state goes there, to the minimum size.

        Returns:
            What was done, in words.

        Raises:
            NotObeyedError: the tuner is disabled.
        """
        with self._lock:
            self._check_enabled("a reset")
            self._do(self.staged.reset_to_safe_state)
            return f"the tuner {self.staged.decider.name} was reset; batch size {self.staged.ask().batch_size}"

    def set_batch_size(self, batch_size: int) -> None:
        """Run with a batch size of one's own choice.

        Args:
            batch_size: within the configured bounds.

        Raises:
            ValueError: outside the bounds, or (`NotObeyedError`) the tuner is disabled or static.
            NotForThisTunerError: the tuner in force takes no size.
        """
        with self._lock:
            self._check_enabled(f"batch size {batch_size}")
            action = self._command("set_batch_size", "takes no batch size by hand")
            self._do(lambda: action(batch_size))

    def probe(self) -> None:
        """Probe again from the initial size.

        Raises:
            NotObeyedError: the tuner is disabled or static.
            NotForThisTunerError: the tuner in force does not probe.
        """
        with self._lock:
            self._check_enabled("a probe")
            self._do(self._command("trigger_probe", "does not probe"))

    def switch(self, name: str, track: str | None = None) -> None:
        """Another tuner decides from now on.

        Args:
            name: a key of `TUNERS`; files come by upload.
            track: the fields it may move, None for those of before.

        Raises:
            ValueError: no such tuner or track, or (`NotObeyedError`) the tuner is disabled.
        """
        with self._lock:
            self._check_enabled(f"strategy {name!r}")
            setting = self._setting if track is None else replace(self._setting, track=_known_track(track))
            tuner = _by_registered_name(name, setting)
            self._do(lambda: self.staged.decide_by(tuner))
            self._setting, self._name = setting, tuner_name(name)

    def stage_latency(self, stage: str, share: float | None = None) -> None:
        """Move the roll-out of what is learned of step latency, now and for tuners to come.

        Args:
            stage: offline, shadow, partial or full.
            share: of the windows, for partial; None keeps the present one.

        Raises:
            ValueError: no such stage, or the share is outside 0 to 1.
            NotForThisTunerError: the tuner in force learns no step latency.
        """
        with self._lock:
            decider = self.staged.decider
            move: Callable[..., Any] | None = getattr(decider, "move_latency_to", None)
            if move is None:
                raise NotForThisTunerError(f"the tuner {decider.name!r} learns no step latency; guarded-adaptive does")
            self._do(lambda: move(stage, share))
            self._setting = replace(self._setting, latency_stage=stage)

    def try_policy(self, data: bytes, share: float = 0.1, promote_after: int = 30) -> dict[str, Any]:
        """Put a policy on trial: it is checked, decides a share of the windows, and stays or goes.

        Args:
            data: a policy file.
            share: of the windows, above 0 and at most 1.
            promote_after: judged windows after which it stays, >= 1.

        Returns:
            What the policy is.

        Raises:
            ValueError: the file is no policy, damaged or made for other features, a value is outside its bound, or
                (`NotObeyedError`) the tuner is disabled.
        """
        self._check_enabled("a policy's trial")
        if len(data) > MOST_BYTES:
            raise ValueError(f"the policy has {len(data)} bytes; at most {MOST_BYTES} are taken")
        policy = parse_policy(data)
        failures = self._setting.config.max_consecutive_failures
        tuner = policy_tuner(policy, slo=self._setting.slo, max_consecutive_failures=failures)
        with self._lock:
            self._do(lambda: self.staged.try_out(tuner, share, promote_after))
            return {"track": policy.description.track, "bytes": len(data), "start": tuner.ask().to_dict()}

    def withdraw_policy(self) -> bool:
        """End a trial; the tuner of before decides again.

        Returns:
            Whether there was a trial.
        """
        with self._lock:
            return bool(self._do(lambda: self.staged.withdraw("it was withdrawn by hand")))

    def advise_by(self, name: str | None) -> None:
        """Let a second tuner advise without deciding anything.

        Args:
            name: a key of `TUNERS`; None for no adviser.

        Raises:
            ValueError: no such tuner.
        """
        with self._lock:
            shadow = None if name is None else Shadow(_by_registered_name(name, self._setting))
            self._do(lambda: setattr(self.staged, "shadow", shadow))

    def status(self) -> dict[str, Any]:
        """The session's status, with the trial and the adviser beside it."""
        status = self._attached.status()
        shadow = self.staged.shadow
        return {
            "enabled": self.config.enabled,
            **status,
            "strategy": status.get("strategy", self.staged.decider.name),
            "track": self._setting.track,
            "trial": self.staged.trial,
            "shadow": None if shadow is None else shadow.status(),
        }

    @property
    def _attached(self) -> TunerSession:
        if self._session is None:
            raise RuntimeError("attach must be called with the session before it is controlled")
        return self._session

    def _check_enabled(self, order: str) -> None:
        if not self.config.enabled:
            raise NotObeyedError(
                f"{order} was ordered and not obeyed: the tuner is disabled (enabled: false), the batch size stays at "
                f"{self.staged.ask().batch_size}; set enabled true first"
            )

    def _do(self, action: Callable[[], Any]) -> Any:
        """Between two windows, so that no decision runs at the same time."""
        return self._attached.command(lambda _: action())

    def _command(self, name: str, refusal: str) -> Callable[..., Any]:
        decider = self.staged.decider
        action: Callable[..., Any] | None = getattr(decider, name, None)
        if action is None:
            raise NotForThisTunerError(f"the tuner {decider.name!r} {refusal}; switch to dynamic or hybrid first")
        return action


def _by_registered_name(name: str, setting: Setting) -> Tuner:
    """A tuner that needs no file: names that come over a network open none."""
    lookup(TUNERS, tuner_name(name), "tuner")
    if name == POLICY:
        raise ValueError("a policy comes as a file: upload it to .../policy")
    return build_tuner(name, setting)


def _check_threshold(changes: Mapping[str, Any]) -> None:
    """A file may hold an unusual `performance_threshold` and is warned of; over the interface it is refused."""
    key = "performance_threshold"
    usual = TunerConfig.recommended()[key]
    if key in changes and not usual.low <= changes[key] <= usual.high:
        raise ConfigError.of({key: f"{key} is {changes[key]}; while running it must be within {usual}"})


def _known_track(track: str) -> str:
    lookup(TRACKS, track, "track")
    return track

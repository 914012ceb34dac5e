"""A server's command line: which of its flags are limits, how they are read, how limits become flags."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from batchpilot.core.limits import Limits

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.S)
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([A-Za-z]*)")


@dataclass(frozen=True)
class Started:
    """What a server was or will be started with.

    Attributes:
        server: its name.
        model: what it serves, None where the command does not say.
        limits: base limits; what the command does not state is what the server takes without it.
        assumed: the fields of the limits that it does not state.
        facts: whole numbers besides: `max_model_len`, `kv_capacity_tokens`, `tensor_parallel`, `pipeline_parallel`,
            `port`.
        program: the words that start it, without environment.
        arguments: the words after them, without limits and without a model that stands by itself.
        fixed: flags of limits that a file states which goes before the command line.
    """

    server: str
    model: str | None
    limits: Limits
    assumed: tuple[str, ...]
    facts: Mapping[str, int]
    program: tuple[str, ...]
    arguments: tuple[str, ...]
    fixed: tuple[str, ...] = ()

    def without(self, *names: str) -> list[str]:
        """The arguments without some flags and their values.

        Args:
            *names: flags, with their dashes.
        """
        kept: list[str] = []
        words = iter(self.arguments)
        for word in words:
            if word in names:
                next(words, None)
            elif word.partition("=")[0] not in names:
                kept.append(word)
        return kept


@dataclass(frozen=True)
class ServerFlags:
    """One server's way to say limits.

    Attributes:
        name: of the server.
        program: how its command line begins; a word may stand in a path (`/opt/bin/vllm`).
        limits: flags by field of `Limits`, each without dashes, the one that is written first.
        facts: the same by name of a fact, the one that is written first.
        model: flags that name the model.
        positional: whether the model may be the first word after the program.
        files: flags that name a YAML file of the same options.
        file_wins: whether such a file goes before flags of the command line; else these win.
        subcommand: a word that may stand between program and model and changes nothing.
        defaults: limits of a server that was told none.
        suffixes: multiples that a count may end in.
        fitted: makes the server's own sense of limits before they are written.
        dash: what joins the words of a flag.
        source: version and file that this was taken from.
    """

    name: str
    program: tuple[str, ...]
    limits: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, tuple[str, ...]]
    model: tuple[str, ...]
    positional: bool
    files: tuple[str, ...]
    defaults: Limits
    suffixes: Mapping[str, int] = field(default_factory=dict)
    fitted: Callable[[Limits], Limits] = lambda limits: limits
    dash: str = "-"
    file_wins: bool = False
    subcommand: str | None = None
    source: str = ""

    def options(self, limits: Limits) -> dict[str, int]:
        """Limits as options, those that the server has.

        Args:
            limits: what was found.
        """
        given = self.fitted(limits).to_dict()
        return {names[0]: given[name] for name, names in self.limits.items() if given[name] is not None}

    def flags(self, limits: Limits) -> list[str]:
        """Limits as words of a command line.

        Args:
            limits: what was found.
        """
        return [word for name, value in self.options(limits).items() for word in (_dashed(name), str(value))]

    def stating(self, facts: Mapping[str, int]) -> list[str]:
        """Facts as words of a command line, those that the server has flags for.

        Args:
            facts: by name.
        """
        told = [(self.facts[name][0], value) for name, value in facts.items() if name in self.facts]
        return [word for name, value in told for word in (_dashed(name), str(value))]

    def missing(self, limits: Limits, facts: Iterable[str] = ()) -> list[str]:
        """The limits that are on, and facts, but that the server has no flag for.

        Args:
            limits: what was found.
            facts: names of what else is to be said.
        """
        on = {name: value for name, value in limits.in_force().items() if name not in self.limits}
        lacks = [name for name, value in on.items() if (name, value) != ("discipline", "fcfs")]
        return [*lacks, *(name for name in facts if name not in self.facts)]

    def command(self, started: Started, limits: Limits) -> list[str]:
        """A command line with other limits.

        Args:
            started: the command as it was.
            limits: instead of its own.
        """
        return [*started.program, *self.arguments(started), *self.flags(limits)]

    def arguments(self, started: Started) -> list[str]:
        """Its arguments without limits, the model among them.

        Args:
            started: the command as it was.

        Raises:
            ValueError: a file states a limit, and flags would not change it.
        """
        if started.fixed:
            raise ValueError(
                f"a file that the command names states {', '.join(started.fixed)}, and in {self.name} that goes before "
                "flags of the command line; take it out of the file, or write the limits there"
            )
        alone = self.positional and started.model is not None
        return [*([str(started.model)] if alone else []), *started.arguments]

    def read(self, command: str | Sequence[str], folder: Path | None = None) -> Started:
        """A command line.

        Args:
            command: as typed in a shell, or its words; environment before the program is passed over.
            folder: where files that it names lie; the present one when None.

        Raises:
            ValueError: it is no command of this server, or a limit is no whole number or out of bounds.
            OSError: a file that it names cannot be read.
        """
        words = shlex.split(command.replace("\\\n", " ")) if isinstance(command, str) else list(command)
        while words and _ASSIGNMENT.fullmatch(words[0]):
            words.pop(0)
        after = self._after_program(words)
        if self.subcommand is not None and words[after : after + 1] == [self.subcommand]:
            after += 1
        model = words[after] if self.positional and after < len(words) and not words[after].startswith("-") else None
        told: dict[str, str] = {}
        kept: list[str] = []
        place = after if model is None else after + 1
        while place < len(words):
            word = words[place]
            name, equals, value = word.partition("=")
            name = self._plain(name) if word.startswith("-") else ""
            taken = 1
            if name in self._known and not equals and place + 1 < len(words):
                value, taken = words[place + 1], 2
            if name in self._known:
                told.pop(name, None)  # of several flags for one thing the last counts
                told[name] = value
            if name not in self._limit_names:
                kept += words[place : place + taken]
            place += taken
        from_files: dict[str, Any] = {}
        for name in self.files:
            if name in told:
                from_files |= self._file((folder or Path()) / told[name])
        together = _over(told, from_files) if self.file_wins else _over(from_files, told)
        fixed = tuple(name for name in from_files if name in self._limit_names) if self.file_wins else ()
        return self._started(together, model, tuple(words[:after]), tuple(kept), fixed)

    def read_file(self, path: Path) -> Started:
        """A YAML file of the server's options.

        Args:
            path: the file.

        Raises:
            ValueError: it is none, or a limit is no whole number or out of bounds.
            OSError: it cannot be read.
        """
        told = self._file(path)
        model = next((str(told[name]) for name in self.model if name in told), None)
        return self._started(told, model, self.program, ())

    def _started(
        self,
        told: Mapping[str, Any],
        model: str | None,
        program: tuple[str, ...],
        arguments: tuple[str, ...],
        fixed: tuple[str, ...] = (),
    ) -> Started:
        stated = {
            name: self._count(flag, value)
            for flag, value in told.items()
            for name, flags in self.limits.items()
            if flag in flags
        }
        found = {
            name: self._count(flag, value)
            for flag, value in told.items()
            for name, flags in self.facts.items()
            if flag in flags and str(value).lower() not in ("auto", "none")
        }
        facts = {name: found[name] for name in self.facts if name in found}
        base = self.defaults.in_force()
        assumed = tuple(name for name in base if name not in stated)
        model = model or next((str(told[name]) for name in self.model if name in told), None)
        return Started(
            self.name, model, Limits.from_dict({**base, **stated}), assumed, facts, program, arguments, fixed
        )

    def _file(self, path: Path) -> dict[str, Any]:
        try:
            data = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: no YAML ({' '.join(str(error).split())[:120]})") from None
        if not isinstance(data, Mapping):
            raise ValueError(f"{path}: expected options of {self.name} by name, found {type(data).__name__}")
        return {self._plain(str(name)): value for name, value in data.items() if value is not None}

    def _after_program(self, words: Sequence[str]) -> int:
        """The place behind the program's words."""
        for start in range(len(words)):
            names = [Path(word).name for word in words[start : start + len(self.program)]]
            if names == list(self.program):
                return start + len(self.program)
        raise ValueError(
            f"{' '.join(words)[:120]!r} is no command of {self.name}; expected {' '.join(self.program)} ..."
        )

    def _plain(self, name: str) -> str:
        """A flag's name without dashes before it, its words joined as this server's file has them."""
        return name.lstrip("-").replace("_" if self.dash == "-" else "-", self.dash)

    def _count(self, flag: str, value: Any) -> int:
        if isinstance(value, bool):
            value = str(value)
        found = _COUNT.fullmatch(str(value).strip())
        multiple = self.suffixes.get(found[2], 0) if found and found[2] else 1
        number = Decimal(found[1]) * multiple if found else Decimal(0)
        if found is None or not multiple or number != int(number):
            endings = f", perhaps with {', '.join(self.suffixes)}" if self.suffixes else ""
            raise ValueError(f"{_dashed(flag)} of {self.name} is {value!r}; expected a whole number{endings}")
        return int(number)

    @property
    def _limit_names(self) -> set[str]:
        return {flag for flags in self.limits.values() for flag in flags}

    @property
    def _known(self) -> set[str]:
        facts = {flag for flags in self.facts.values() for flag in flags}
        return self._limit_names | facts | set(self.model) | set(self.files)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Options of which some go before others, these last."""
    return {name: value for name, value in below.items() if name not in above} | dict(above)


def _dashed(name: str) -> str:
    return f"--{name}" if len(name) > 2 else f"-{name}"

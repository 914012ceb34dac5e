"""What may compete, by the name typed on a command line: a registered tuner, a reference, or a file of the user's own.

`my_tuner.py:MyTuner` is a class in a Python file, which is executed; `policy:FILE.onnx` an exported policy.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from batchpilot.baselines import SERVER_DEFAULT, Setting
from batchpilot.baselines.references.clairvoyant import ScheduledTuner, clairvoyant
from batchpilot.baselines.references.static_best import best_static, tightest_tpot_ms, track_grid
from batchpilot.baselines.references.static_suite import static_suite
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core.limits import Limits
from batchpilot.core.names import unknown_name
from batchpilot.core.slo import SLO
from batchpilot.core.tuner import Tuner
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.tuners import TUNERS, build_tuner, tuner_name

STATIC_BEST, STATIC_SUITE, CLAIRVOYANT = "static-best", "static-suite", "clairvoyant"
POLICY = "policy"

REFERENCES: dict[str, Callable[[PreparedRun, str], Limits | Tuner]] = {
    STATIC_SUITE: lambda run, track: static_suite(track),
    STATIC_BEST: lambda run, track: best_static(run, track_grid(track, tightest_tpot_ms(run)))[0],
    CLAIRVOYANT: lambda run, track: ScheduledTuner(clairvoyant(run, track).schedule),
}
"""What builds each reference from a run and a track; the last two know the run's future."""


class OwnTunerError(ValueError):
    """A tuner of the user's own raised; the message names it, its error, and the line."""


def label(name: str, strategy: Limits | Tuner | None = None) -> str:
    """What tables call a strategy: its name, a file's without the folders; a tuner of the user's own may name itself.

    Args:
        name: as typed.
        strategy: what was built from it; None where it could not be.
    """
    prefix, file, class_name = _parts(name)
    own = _own_name(strategy) if class_name and isinstance(strategy, Tuner) else None
    return own or (f"{prefix}{Path(file).name}{class_name}" if file else tuner_name(name))


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Whatever is raised within is told as an error of the tuner, where that is the user's own.

    Args:
        name: as typed.

    Raises:
        OwnTunerError: for any error, where the name is that of a Python file.
    """
    _, file, class_name = _parts(name)
    try:
        yield
    except Exception as error:
        if not class_name or isinstance(error, OwnTunerError):
            raise
        path = Path(file).resolve()
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
        where = f", line {frames[-1].lineno}" if frames else ""
        raise OwnTunerError(f"{label(name)} raised {type(error).__name__}: {error} ({file}{where})") from error


def content_hash(name: str) -> str:
    """Changes when the file of a strategy does; empty without one.

    Args:
        name: as typed.

    Raises:
        OSError: the file cannot be read.
    """
    _, file, _ = _parts(name)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if file else ""


def check_strategies(names: Sequence[str]) -> None:
    """Find a mistake before anything runs: every strategy that needs no run is built once.

    Args:
        names: as typed.

    Raises:
        ValueError: an unknown name, a file that is missing or holds no such tuner, or two strategies of one name.
    """
    shown = []
    for name in dict.fromkeys(names):
        built = None if name in REFERENCES else make_strategy(name, Setting(TunerConfig(), SERVER_DEFAULT, SLO()))
        shown.append(label(name, built))
        if shown[-1] != name and shown[-1] in (*TUNERS, *REFERENCES):
            raise ValueError(f"{name} calls itself {shown[-1]!r}, which is another's; give it a name of its own")
    for one in shown:
        if shown.count(one) > 1:
            raise ValueError(f"two strategies would both be called {one}; give one of them another name")


def make_strategy(name: str, setting: Setting) -> Tuner:
    """A tuner by name or file.

    Args:
        name: as typed; no reference.
        setting: what it is built for.

    Raises:
        ValueError: an unknown name, or a file that is missing or holds no such tuner.
    """
    prefix, file, class_name = _parts(name)
    if prefix:
        return build_tuner(POLICY, setting, path=_found(file))
    if file:
        return _own_tuner(name, _found(file), class_name.removeprefix(":"), setting)
    if tuner_name(name) not in TUNERS:
        known = [*TUNERS, *REFERENCES]
        raise ValueError(f"{unknown_name(name, known, 'tuner')}; your own is FILE.py:CLASS or {POLICY}:FILE.onnx")
    return build_tuner(name, setting)


def _parts(name: str) -> tuple[str, str, str]:
    """Prefix, file and class of a name, with their colons; all empty for a registered name."""
    if name.startswith(f"{POLICY}:"):
        return f"{POLICY}:", name.removeprefix(f"{POLICY}:"), ""
    file, colon, class_name = name.rpartition(":")
    if colon and file.endswith(".py"):
        return "", file, f":{class_name}"
    if name.endswith(".py"):
        return "", name, ":"
    return "", "", ""


def _found(file: str) -> Path:
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"there is no file {file!r}; a tuner of your own is named FILE.py:CLASS or {POLICY}:FILE.onnx")
    return path


def _own_tuner(name: str, path: Path, class_name: str, setting: Setting) -> Tuner:
    """A tuner of the user's: its class gets the setting if its constructor has a parameter of that name."""
    module = _executed(path)
    own = [one for one, value in vars(module).items() if _is_tuner(value) and value.__module__ == module.__name__]
    if not hasattr(module, class_name):
        raise ValueError(unknown_name(class_name, own, f"tuner in {path}"))
    found = getattr(module, class_name)
    if not _is_tuner(found):
        raise ValueError(f"{name} is no tuner: a class derived from batchpilot.Tuner is needed (found: {found!r})")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ValueError(f"{name} cannot be built: it lacks {missing}")
    try:
        takes_setting = "setting" in inspect.signature(found).parameters
        tuner: Tuner = found(setting=setting) if takes_setting else found()
    except Exception as error:  # whatever the user's code raises is the user's to see
        raise ValueError(
            f"{name} could not be built ({type(error).__name__}: {error}); its constructor takes `setting`, or nothing"
        ) from error
    return tuner


def _own_name(tuner: Tuner) -> str | None:
    """The name that the user's class gave itself; None where it is what the class inherits."""
    module = type(tuner).__module__
    inherited = next(one for one in type(tuner).__mro__ if one.__module__ != module)
    return None if tuner.name == getattr(inherited, "name", None) else str(tuner.name)


def _is_tuner(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Tuner) and value is not Tuner


def _executed(path: Path) -> ModuleType:
    """The file as a module of its own, beside which it may import other files."""
    name = f"_batchpilot_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} cannot be executed ({type(error).__name__}: {error})") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module

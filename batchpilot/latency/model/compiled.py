"""How kernels are compiled: cached on disk, without the interpreter lock, and without reference counts.

Kernels inline one another across modules, but Numba's disk cache looks only at the file of the outermost one. So every
cached kernel is stamped with all the sources that may be inlined into it: every module with kernels, and the words of
`core` whose constants they read. A change in any of them compiles all anew; a change elsewhere compiles nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

_IMPORT = b"latency.model.compiled import"


def kernel_sources_stamp(package: Path = Path(__file__).parents[2]) -> str:
    """A hash of every source file that a kernel may come from.

    Args:
        package: folder of the package `batchpilot`.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(package.rglob("*.py")):
        source = path.read_bytes()
        if _IMPORT in source or path.parent == package / "core":
            digest.update(source)
    return digest.hexdigest()


_STAMP = kernel_sources_stamp()


def _compile(function: Function, **options: Any) -> Function:
    dispatcher = njit(cache=True, nogil=True, **options)(function)
    if hasattr(dispatcher, "py_func"):  # NUMBA_DISABLE_JIT hands the plain function back
        dispatcher._cache._cache_file._source_stamp = _STAMP
    return cast(Function, dispatcher)


def kernel(function: Function) -> Function:
    """Compile a function that allocates nothing.

    Without the Numba run time no array argument is reference-counted; those atomic operations made a scheduler step
    eight times as slow. In return a kernel may not create arrays.
    """
    return _compile(function, _nrt=False)


def inlined(function: Function) -> Function:
    """`kernel` for small functions called in every step: inlined into their callers, which saves passing the state."""
    return _compile(function, _nrt=False, forceinline=True)


def allocating(function: Function) -> Function:
    """Compile a function that creates arrays."""
    return _compile(function)


def entered(function: Function) -> Function:
    """A kernel that is called from Python with arguments of the same types every time, without Numba's look at them.

    For the arrays of records that a scheduler is made of that look takes 26 us, as long as some hundred steps.

    Args:
        function: a kernel; its first call compiles it, or finds it compiled.
    """
    entry: Callable[..., Any] | None = None

    def enter(*arguments: Any) -> Any:
        nonlocal entry
        if entry is not None:
            return entry(*arguments)
        answer = function(*arguments)
        compiled = list(getattr(function, "overloads", {}).values())
        if len(compiled) == 1:
            entry = compiled[0].entry_point
        return answer

    return cast(Function, enter)


def plain(function: Function) -> Function:
    """The plain-Python twin of a compiled function, for stepping through it."""
    return cast(Function, getattr(function, "py_func", function))

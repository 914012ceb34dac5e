"""How kernels are compiled: cached on disk, without the interpreter lock, and without reference counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

_NO_COUNTS: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False}


def kernel(function: Function) -> Function:
    """Compile a function that allocates nothing.

    Without the Numba run time no array argument is reference-counted; those atomic operations made a scheduler step
    eight times as slow. In return a kernel may not create arrays.
    """
    return cast(Function, njit(**_NO_COUNTS)(function))


def inlined(function: Function) -> Function:
    """`kernel` for small functions called in every step: inlined into their callers, which saves passing the state."""
    return cast(Function, njit(forceinline=True, **_NO_COUNTS)(function))


def allocating(function: Function) -> Function:
    """Compile a function that creates arrays."""
    return cast(Function, njit(cache=True, nogil=True)(function))


def parallel(function: Function) -> Function:
    """Compile a function whose `prange` loops run in threads."""
    return cast(Function, njit(cache=True, nogil=True, parallel=True)(function))


def plain(function: Function) -> Function:
    """The plain-Python twin of a compiled function, for stepping through it."""
    return cast(Function, function.py_func)  # type: ignore[attr-defined]

"""How kernels are compiled: cached on disk, without the interpreter lock, and without reference counts.

Kernels inline one another across modules, but Numba's disk cache looks only at the file of the outermost one. So every
cached kernel is stamped with all the sources that may be inlined into it: every module with kernels, and the words of
`core` whose constants they read. A change in any of them compiles all anew; a change elsewhere compiles nothing.

Numba (0.68) also names machine code in its index before it is written, under a number that older code may have had: of
two processes that compile at once one could run what was made of older sources, or for arguments of other types, and
write where it should not. Here the name is made of stamp, version and signature, and indexed once the file is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.caching import IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering

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


class KernelFile(IndexDataCacheFile):  # type: ignore[misc]
    """The compiled forms of one function on disk, each in a file that nothing else is ever written to.

    Args:
        folder: where they are kept.
        name: of the function's files.
        stamp: of the sources that they are made of.
    """

    def __init__(self, folder: str, name: str, stamp: str) -> None:
        super().__init__(folder, name, stamp)
        self._name = name

    def save(self, key: Any, data: Any) -> None:
        """Keep a compiled form; those of other sources go.

        Args:
            key: signature, processor and code.
            data: the compiled form.
        """
        made_of = f"{self._name}.{self._source_stamp[:12]}-"
        data_name = f"{made_of}{hashlib.sha256(f'{self._version}{key!r}'.encode()).hexdigest()[:16]}.nbc"
        self._save_data(data_name, data)
        self._save_index({**self._load_index(), key: data_name})
        for other in Path(self._cache_path).glob(f"{self._name}.*.nbc"):
            if not other.name.startswith(made_of):
                other.unlink(missing_ok=True)


class PartOfKernels(JITCodeLibrary):  # type: ignore[misc]
    """Code of a function for kernels that call it: optimised, and turned into machine code, as a part of theirs."""

    def _optimize_final_module(self) -> None:
        """Leave that to whatever this becomes a part of."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class LoweringForKernels(NativeLowering):  # type: ignore[misc]
    """Numba's lowering, into a `PartOfKernels`."""

    _name = "lowering_for_kernels"

    def run_pass(self, state: Any) -> bool:
        """Lower a function, and tell the target that there is one more to call."""
        state.library = PartOfKernels(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        # Numba knows what kernels call by what Python would call, which there is not.
        lowered = state["cr"] = state["cr"]._replace(cfunc=object())
        state.targetctx.insert_user_function(lowered.cfunc, lowered.fndesc, [state.library])
        state.reload_init.extend(state.library._reload_init)
        return True


class CompilerForKernels(CompilerBase):  # type: ignore[misc]
    """Numba's compiler, but for the lowering."""

    def define_pipelines(self) -> list[Any]:
        """The passes, in order."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [(LoweringForKernels if one is NativeLowering else one, told) for one, told in passes.passes]
        passes.finalize()
        return [passes]


def _compile(function: Function, **options: Any) -> Function:
    dispatcher = njit(cache=True, nogil=True, **options)(function)
    if hasattr(dispatcher, "py_func"):  # NUMBA_DISABLE_JIT hands the plain function back
        kept = dispatcher._cache
        kept._cache_file = KernelFile(kept.cache_path, kept._impl.filename_base, _STAMP)
    return cast(Function, dispatcher)


def _kernel(function: Function, **options: Any) -> Function:
    """Compile a function in two forms: one to call from Python, once that happens, and one for kernels.

    Numba would optimise what a kernel calls, with all that this calls in turn, make machine code of it, and begin anew
    with the caller: three fifths of the time that a scheduler took to compile.
    """
    called: Any = _compile(function, _nrt=False, **options)

    @cache
    def part() -> Any:
        made: Any = njit(
            nogil=True, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True,
            pipeline_class=CompilerForKernels, **options,
        )(function)  # fmt: skip
        made.add_overload = lambda compiled: made.overloads.update({tuple(compiled.signature.args): compiled})
        return made

    if hasattr(called, "py_func"):
        # Made when a kernel that calls it is compiled, not at import.
        called.get_call_template = lambda *told: part().get_call_template(*told)
        called.get_overload = lambda signature: part().get_overload(signature)
    return cast(Function, called)


def kernel(function: Function) -> Function:
    """Compile a function that allocates nothing.

    Without the Numba run time no array argument is reference-counted; those atomic operations made a scheduler step
    eight times as slow. In return a kernel may not create arrays.
    """
    return _kernel(function)


def compiled_once(function: Function) -> Function:
    """`kernel` for a large function that many kernels call, each in a process of its own: they take it optimised.

    Compiled on the way to the first of them, it is on disk for the others.
    """
    return _compile(function, _nrt=False)


def inlined(function: Function) -> Function:
    """`kernel` for small functions called in every step: inlined into their callers, which saves passing the state."""
    return _kernel(function, forceinline=True)


def allocating(function: Function) -> Function:
    """Compile a function that creates arrays.

    The Numba run time is asked for by name: compiled on the way to a kernel it would be left out here, too, and chance
    would decide what the arrays are. No kernel may call such a function.
    """
    return _compile(function, _nrt=True)


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

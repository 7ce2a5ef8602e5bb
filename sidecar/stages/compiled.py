"""Where kernels' compiled code comes from: kept with the installation, or compiled for the processor at hand.

Compiling takes 13 s of a core. An image is built once and started often, on processors that its builder does not
know, and numba takes code only from where it may write, which a read-only container has nowhere. So
`scripts/kernels.py` compiles for a few levels of processors into KEPT, and from there the code is taken by the best
level that the processor has. Where there is none, as in a checkout, numba does as it always does.

What is kept is only read, never written: it is code, and whoever could change it could run anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar, cast

import llvmlite.binding
import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, UserProvidedCacheLocator

# The names are LLVM's, the best first; what each asks of a processor is that of x86-64's psABI, in LLVM's words.
# `generic` is every processor of the other architectures: nothing kept for one is ever taken on another.
_V3: Final = frozenset({"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"})
_V4: Final = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS: Final[Mapping[str, frozenset[str]]] = {"x86-64-v4": _V4, "x86-64-v3": _V3, "generic": frozenset()}
KEPT: Final = Path(__file__).parent / "kept"

_F = TypeVar("_F", bound=Callable[..., Any])
# What numba and LLVM hand about: neither carries types.
_Untyped: TypeAlias = Any

KERNELS: Final[list[_Untyped]] = []
"""Every kernel of this process, as numba's dispatcher."""


def level_of(kept: Path, features: Mapping[str, bool]) -> str | None:
    """The best level that code is kept for in `kept` and that a processor with these features has; None for none."""
    return next(
        (
            level
            for level, asked in LEVELS.items()
            if (kept / level).is_dir() and all(features.get(feature) for feature in asked)
        ),
        None,
    )


def _chosen() -> str | None:
    """The level that this process goes by. A processor that was named by hand (NUMBA_CPU_NAME) stays that."""
    config: _Untyped = numba.config
    if config.CPU_NAME is not None:
        return None
    level = level_of(KEPT, llvmlite.binding.get_host_cpu_features())
    if level is not None:
        config.CPU_NAME, config.CPU_FEATURES = level, ""
    return level


_LEVEL: Final = _chosen()


class _Place(UserProvidedCacheLocator):
    """The folder of the level. numba asks of every other place whether it may write there."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        super().__init__(function, file)  # type: ignore[no-untyped-call]  # numba's own
        subpath = self.get_suitable_cache_subpath(file)  # type: ignore[no-untyped-call]  # as above
        self._cache_path = str(KEPT / str(_LEVEL) / subpath)

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> _Place:
        return cls(function, file)


class _Kept(FunctionCache):
    """Takes, and never keeps: what is missing is compiled for this process alone."""

    class _impl_class(CompileResultCacheImpl):  # noqa: N801 - numba's name
        _locator_classes = [_Place]  # noqa: RUF012 - as numba has it

    def save_overload(self, signature: _Untyped, compiled: _Untyped) -> None:
        """Nothing."""


def kernel(function: _F) -> _F:
    """Compiled at its first call, or taken from what was compiled before.

    Without anything kept with the installation, numba keeps compiled code beside the function's file or else in the
    user's cache folder, apart for each kind of processor. Where it may write nowhere it says so here, and the code
    then stays in memory.
    """
    dispatcher: _Untyped = numba.njit(nogil=True, error_model="numpy")(function)
    if _LEVEL is not None:
        kept: _Untyped = _Kept
        dispatcher._cache = kept(function)  # noqa: SLF001 - where numba has its own, which looks nowhere else
    else:
        with suppress(RuntimeError):
            dispatcher.enable_caching()
    KERNELS.append(dispatcher)
    return cast("_F", dispatcher)


def told() -> str:
    """Where the code of this process's kernels came from, for people."""
    found = [kernel.stats for kernel in KERNELS]
    taken, made = (
        sum(sum(counts.values()) for counts in each)
        for each in ([one.cache_hits for one in found], [one.cache_misses for one in found])
    )
    where = f"kept with the installation for {_LEVEL}" if _LEVEL is not None else "of this processor"
    return f"{taken} taken from what is {where}, {made} compiled"

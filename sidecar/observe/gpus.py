"""What the driver says of the GPUs (NVML), where there are any: a second witness beside the accounts.

The driver's utilisation is the part of its last sample in which any kernel ran, of whoever's process. It never
decides; where it and the accounts disagree, both are told. Without a driver it says nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

import pynvml

log = logging.getLogger(__name__)

# By how much they may differ: the driver samples some times a second, the accounts leave out copies.
_DISAGREES: Final = 0.25


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: the part of the time in which kernels ran, and of its memory that is taken; 0 to 1."""

    index: int
    name: str
    utilisation: float
    memory: float


class Gpus:
    """The driver's view. Opened once; without a driver there are no GPUs, and one that fails is left out."""

    def __init__(self, library: Any = pynvml) -> None:  # noqa: ANN401 - a module, or one like it
        self._library = library
        self._handles: list[tuple[int, Any, str]] = []
        try:
            library.nvmlInit()
            count = library.nvmlDeviceGetCount()
        except library.NVMLError as error:
            log.debug("no GPU is looked at: %s", error)
            return
        for index in range(count):
            try:
                handle = library.nvmlDeviceGetHandleByIndex(index)
                self._handles.append((index, handle, str(library.nvmlDeviceGetName(handle))))
            except library.NVMLError as error:
                log.debug("GPU %d is not looked at: %s", index, error)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._handles)

    def look(self) -> tuple[Gpu, ...]:
        """All of them now."""
        found = []
        for index, handle, name in self._handles:
            try:
                rates = self._library.nvmlDeviceGetUtilizationRates(handle)
                memory = self._library.nvmlDeviceGetMemoryInfo(handle)
            except self._library.NVMLError as error:
                log.debug("GPU %d tells nothing: %s", index, error)
                continue
            found.append(Gpu(index, name, rates.gpu / 100, memory.used / memory.total))
        return tuple(found)


def disagreement(used: float, busy: float) -> str:
    """How the driver, by whom kernels ran for the part `used` of the time, contradicts accounts by which models were
    busy for the part `busy`; empty where it does not.
    """
    if used > busy + _DISAGREES:
        return (
            f"the driver says {used:.0%} and the accounts {busy:.0%}: something else uses the GPU too, "
            "or the model server works for others"
        )
    if used < busy - _DISAGREES:
        return (
            f"the driver says {used:.0%} and the accounts {busy:.0%}: executions wait for something beside the GPU "
            "(the CPU, copies), or run elsewhere"
        )
    return ""

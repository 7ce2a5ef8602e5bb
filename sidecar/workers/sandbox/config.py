"""What workers are confined by: the layers by name, how each is wanted, and what the nursery is told of it.

Pure: it looks at no kernel. What is there is found out by `layers.py`, in the process that it concerns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, Self

from annotated_types import Ge

from sidecar.errors import SettingsError

Mode = Literal["required", "optional", "off"]
"""`required`: nothing starts without it. `optional`: applied where it can be, and told either way. `off`: left out."""

DESCRIPTORS: Final = "descriptors"
NO_NEW_PRIVS: Final = "no_new_privs"
CAPABILITIES: Final = "capabilities"
RLIMITS: Final = "rlimits"
LANDLOCK: Final = "landlock"
SECCOMP: Final = "seccomp"

LAYERS: Final[Mapping[str, str]] = {
    DESCRIPTORS: "every file is closed but standard input, output and error, and the channel",
    NO_NEW_PRIVS: "no program gives it rights that it does not have",
    CAPABILITIES: "it has none, whoever it runs as",
    RLIMITS: "bounds on memory, open files, files' sizes, threads and core dumps",
    LANDLOCK: "no file can be opened, made or removed; no TCP; no signals to others",
    SECCOMP: "the system calls that decoding takes, and no others",
}
"""All layers in the order in which a worker enters them, and what each is."""

NO_PROCESSES: Final = "none: jobs run on threads of the front process (`workers.processes` is 0)"
"""What is told where there is nothing to confine."""

# Without it the kernel takes these two from nobody but root, and root's rights are gone by then.
_NEED_NO_NEW_PRIVS: Final = (LANDLOCK, SECCOMP)


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """How worker processes are confined. `mode` is every layer's, but for those that `layers` names.

    `memory_bytes`: what a worker may allocate beside what it had when it was warm; 0: what the container's memory limit
    leaves beside the front and the arena. `log_denied`: the kernel's log tells of every call that is refused.
    """

    mode: Mode = "optional"
    layers: Mapping[str, Mode] = field(default_factory=dict)
    memory_bytes: Annotated[int, Ge(0)] = 0
    log_denied: bool = False

    def __post_init__(self) -> None:
        for name, mode in self.layers.items():
            if name not in LAYERS:
                raise SettingsError(
                    f"`sandbox.layers` has no layer {name!r} (value {mode!r}): there are {', '.join(LAYERS)}",
                    key=f"sandbox.layers.{name}",
                    value=mode,
                    allowed=", ".join(LAYERS),
                )
        if self.of(NO_NEW_PRIVS) == "off" and (
            needing := [name for name in _NEED_NO_NEW_PRIVS if self.of(name) != "off"]
        ):
            raise SettingsError(
                f"`sandbox.layers.{NO_NEW_PRIVS}` has the value 'off', and {' and '.join(needing)} cannot be without "
                "it: leave it on, or switch them off too",
                key=f"sandbox.layers.{NO_NEW_PRIVS}",
                value="off",
                allowed="required, optional",
            )

    def of(self, layer: str) -> Mode:
        """How a layer is wanted."""
        return self.layers.get(layer, self.mode)

    @property
    def required(self) -> tuple[str, ...]:
        """The layers without which nothing starts."""
        return tuple(name for name in LAYERS if self.of(name) == "required")

    def confinement(self, *, memory_bytes: int, file_bytes: int) -> Confinement:
        """What the nursery is told. `memory_bytes` stands in where the settings say 0; `file_bytes` is the largest file
        that a job can have to write into memory.
        """
        return Confinement(
            layers=tuple(name for name in LAYERS if self.of(name) != "off"),
            memory_bytes=self.memory_bytes or memory_bytes,
            file_bytes=file_bytes,
            log_denied=self.log_denied,
        )


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a worker is to enter: layers in their order, and their numbers; it crosses to the nursery as JSON."""

    layers: Sequence[str] = ()
    memory_bytes: int = 0
    file_bytes: int = 0
    log_denied: bool = False

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        """Of what crossed."""
        return cls(**{**told, "layers": tuple(told["layers"])})


@dataclass(frozen=True, slots=True)
class LayerState:
    """What became of a layer in the nursery's trial: `detail` is its kind where it is applied (Landlock's version), and
    why not where it is not.
    """

    name: str
    applied: bool
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}({self.detail})" if self.detail else self.name


def words(states: Sequence[LayerState]) -> str:
    """What confines workers, in one line: layers applied, those that are not here, those switched off."""
    applied = [str(state) for state in states if state.applied]
    told = [", ".join(applied) or "none"]
    if missing := [f"{state.name} ({state.detail})" for state in states if not state.applied]:
        told.append(f"not here: {', '.join(missing)}")
    if off := [name for name in LAYERS if name not in {state.name for state in states}]:
        told.append(f"switched off: {', '.join(off)}")
    return "; ".join(told)


def lacking(config: SandboxConfig, states: Sequence[LayerState]) -> SettingsError | None:
    """The error of a server whose settings require a layer that is not here; None where all are."""
    missing = {state.name: state.detail for state in states if not state.applied}
    for name in config.required:
        if name in missing:
            return SettingsError(
                f"the sandbox's layer `{name}` is required (`sandbox.mode`, `sandbox.layers.{name}`) and is not here: "
                f"{missing[name]}; set `sandbox.layers.{name}` to optional, or see docs/sandbox.md",
                key=f"sandbox.layers.{name}",
                value="required",
                allowed="optional, off",
            )
    return None

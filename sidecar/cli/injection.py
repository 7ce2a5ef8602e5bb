"""A pod beside whose model server the sidecar is put: a pod's specification in, another out.

Pure, and it goes by what it is given (`Addition`, rendered from the chart's own template): it makes up no part of the
container. It changes nothing that it was handed, adds nothing twice, and refuses what it cannot do rather than leave a
pod that would not start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sidecar.errors import SettingsError

Spec = Mapping[str, Any]
"""A part of a Kubernetes object."""

_SHM: Final = "/dev/shm"  # noqa: S108 - where both containers have it
_SHM_VOLUME: Final = "multimodal-sidecar-shm"
_FLAG: Final = "--allow-client-shm"
_PROGRAM: Final = "tritonserver"
_TRITON_PORT: Final = 8001
# From here on Triton takes no client's shared memory without the flag; earlier ones do not know it and would not start.
_NEEDS_FLAG: Final = (26, 5)
_RELEASE: Final = re.compile(r":(\d\d)\.(\d\d)(?:\D|$)")
_GRPC_PORT: Final = re.compile(r"--grpc-port[= ](\d+)")
_QUANTITY: Final = re.compile(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|k|M|G)?")
_UNITS: Final[Mapping[str | None, int]] = {
    None: 1,
    "k": 1000,
    "M": 1000**2,
    "G": 1000**3,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
}
# What a pod without the key has, by Kubernetes.
_GRACE_S: Final = 30


@dataclass(frozen=True, slots=True)
class Addition:
    """What a pod is given: the container, and whether it is a native sidecar; its volumes, of which the one with the
    shared memory may be there already; mounts of the model server's container, and for how long it waits before it
    stops; the groups of all containers; seconds that stopping takes at least; memory of the container beside the
    shared memory, in bytes.

    `client_shm`: whether Triton is given the flag for it; auto, by its image's release.
    """

    container: Spec
    is_native: bool
    volumes: Sequence[Spec]
    server_mounts: Sequence[Spec]
    server_waits_s: int
    groups: Sequence[int]
    grace_s: int
    heap_bytes: int
    client_shm: Literal["auto", "yes", "no"] = "auto"


def quantity(text: object, key: str) -> int:
    """Bytes of a Kubernetes quantity. Raises SettingsError, naming `key`."""
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise SettingsError(
            f"{key} is {str(text)!r}: write bytes, or a number with Ki, Mi, Gi, k, M or G",
            key=key,
            value=text,
        )
    return int(float(match[1]) * _UNITS[match[2]])


def model_server(pod: Spec, name: str, own: str) -> Spec | None:
    """The container of the model server: the one of that name, or without a name the one that runs Triton; None where
    there is none. `own` is the sidecar's. Raises SettingsError where several run it.
    """
    others = [each for each in pod.get("containers") or () if each.get("name") != own]
    found = [each for each in others if (each.get("name") == name if name else _runs_triton(each))]
    if len(found) > 1:
        names = ", ".join(str(each.get("name")) for each in found)
        raise SettingsError(
            f"more than one container looks like a model server: {names}; say which by --container",
            key="--container",
            value=names,
        )
    return found[0] if found else None


def grpc_port(server: Spec) -> int:
    """The port on which a Triton listens for gRPC, as far as its arguments tell."""
    found = _GRPC_PORT.search(" ".join(_words(server)))
    return int(found[1]) if found else _TRITON_PORT


def beside(pod: Spec, server: Spec, addition: Addition) -> tuple[Spec, list[str]]:
    """The pod with the sidecar beside `server`, one of its containers, and what the operator should know.

    Raises SettingsError for a pod that it cannot be put into.
    """
    notes: list[str] = []
    pod = _without(pod, addition)
    _check(pod, addition.container)
    shared = _shared_volume(pod, server)
    notes += _shared_notes(shared)
    mounts = [
        {**each, "name": shared["name"]} if shared and each["mountPath"] == _SHM else each
        for each in addition.server_mounts
    ]
    server, told = _as_server(server, mounts, addition)
    own = _as_sidecar(addition, shared)
    containers = [server if each["name"] == server["name"] else each for each in pod["containers"]]
    made = {**pod, "containers": containers if addition.is_native else [*containers, own]}
    init = [*((own,) if addition.is_native else ()), *(pod.get("initContainers") or ())]
    if init:
        made["initContainers"] = init
    volumes = [each for each in addition.volumes if not (shared and each["name"] == _SHM_VOLUME)]
    made["volumes"] = [*(pod.get("volumes") or ()), *volumes]
    context = pod.get("securityContext") or {}
    groups = context.get("supplementalGroups") or ()
    new = [group for group in addition.groups if group not in groups]
    made["securityContext"] = {**context, "supplementalGroups": [*groups, *new]}
    grace = pod.get("terminationGracePeriodSeconds")
    made["terminationGracePeriodSeconds"] = max(_GRACE_S if grace is None else grace, addition.grace_s)
    return made, notes + told


def _without(pod: Spec, addition: Addition) -> Spec:
    """The pod as it was before the sidecar came, as far as what it brings has names of its own."""
    name = addition.container["name"]
    volumes = {each["name"] for each in addition.volumes}
    kept: dict[str, Any] = dict(pod)
    for part, ours in (("initContainers", {name}), ("containers", {name}), ("volumes", volumes)):
        if part in pod:
            kept[part] = [each for each in pod[part] or () if each.get("name") not in ours]
    return {key: value for key, value in kept.items() if value != [] or key == "containers"}


def _check(pod: Spec, own: Spec) -> None:
    """Raises SettingsError for a pod where the sidecar could not run."""
    if (pod.get("os") or {}).get("name", "linux") != "linux":
        raise SettingsError(
            "the pod is for Windows, and the sidecar for Linux", key="spec.os.name", value="windows"
        )
    taken = {
        port.get("containerPort"): each.get("name")
        for part in ("initContainers", "containers")
        for each in pod.get(part) or ()
        for port in each.get("ports") or ()
    }
    for port in own["ports"]:
        if (number := port["containerPort"]) in taken:
            raise SettingsError(
                f"the container {taken[number]} has the port {number} already, which is the sidecar's "
                f"{port['name']}: containers of a pod share their ports, so move that one",
                key="ports",
                value=number,
            )


def _shared_volume(pod: Spec, server: Spec) -> Spec | None:
    """The volume that the model server has at /dev/shm already; None where it has none of somebody else's."""
    names = [each["name"] for each in server.get("volumeMounts") or () if each.get("mountPath") == _SHM]
    if not names or names[0] == _SHM_VOLUME:
        return None
    volume: Spec = next(
        (each for each in pod.get("volumes") or () if each["name"] == names[0]), {"name": names[0]}
    )
    if (volume.get("emptyDir") or {}).get("medium") != "Memory":
        raise SettingsError(
            f"the container {server['name']} has the volume {names[0]} at {_SHM}, which is no emptyDir of "
            "medium Memory: the sidecar cannot share it; make it one, or take the mount away for one of this command's",
            key="volumeMounts",
            value=names[0],
        )
    return volume


def _shared_notes(shared: Spec | None) -> Iterator[str]:
    if shared is not None and "sizeLimit" not in shared["emptyDir"]:
        yield (
            f"the volume {shared['name']} at {_SHM} has no sizeLimit: what is written there counts against the memory "
            "limits, so give it one"
        )


def _as_server(server: Spec, mounts: Sequence[Spec], addition: Addition) -> tuple[Spec, list[str]]:
    """The model server's container: it shares its memory, is told so, and waits for the sidecar before it goes."""
    notes: list[str] = []
    paths = {each["mountPath"] for each in mounts}
    others = [each for each in server.get("volumeMounts") or () if each.get("mountPath") not in paths]
    made = {**server, "volumeMounts": [*others, *mounts]}
    lifecycle = server.get("lifecycle") or {}
    before = lifecycle.get("preStop")
    seconds = addition.server_waits_s
    if before is None:
        made["lifecycle"] = {**lifecycle, "preStop": {"sleep": {"seconds": seconds}}}
    elif before.get("sleep", {}).get("seconds", 0) < seconds:
        notes.append(
            f"the container {server['name']} has a preStop hook of its own, which stays: have it last {seconds} s, or "
            "requests under way are lost when the pod ends"
        )
    words = _words(server)
    if any(_FLAG in word for word in words) or not _wants_flag(server, addition, notes):
        return made, notes
    if any(_is_program(word) for word in words):
        made["args"] = [*(server.get("args") or ()), f"{_FLAG}=true"]
    else:
        notes.append(
            f"the arguments of the container {server['name']} are not to be read here: add {_FLAG}=true to {_PROGRAM} "
            "yourself, or tensors go as bytes"
        )
    return made, notes


def _wants_flag(server: Spec, addition: Addition, notes: list[str]) -> bool:
    if addition.client_shm != "auto":
        return addition.client_shm == "yes"
    release = _RELEASE.search(str(server.get("image", "")))
    if release is None:
        year, month = _NEEDS_FLAG
        notes.append(
            f"the image {server.get('image')} does not tell Triton's release: from {year}.{month:02} on "
            f"it needs {_FLAG}=true (--client-shm yes)"
        )
        return False
    return (int(release[1]), int(release[2])) >= _NEEDS_FLAG


def _as_sidecar(addition: Addition, shared: Spec | None) -> Spec:
    """The sidecar's container, with memory for itself and the shared memory, whoever's that is."""
    shm = shared or next(each for each in addition.volumes if each["name"] == _SHM_VOLUME)
    limit = shm["emptyDir"].get("sizeLimit")
    size = quantity(limit, "sizeLimit") if limit is not None else _own_size(addition)
    memory = f"{-(-(addition.heap_bytes + size) // (1 << 20))}Mi"
    resources = {
        kind: {**amounts, "memory": memory} for kind, amounts in addition.container["resources"].items()
    }
    mounts = [
        {**each, "name": shm["name"]} if each["mountPath"] == _SHM else each
        for each in addition.container["volumeMounts"]
    ]
    return {**addition.container, "resources": resources, "volumeMounts": mounts}


def _own_size(addition: Addition) -> int:
    (own,) = (each for each in addition.volumes if each["name"] == _SHM_VOLUME)
    return quantity(own["emptyDir"]["sizeLimit"], "--shm")


def _words(container: Spec) -> list[str]:
    return [str(word) for part in ("command", "args") for word in container.get(part) or ()]


def _is_program(word: str) -> bool:
    return word.rpartition("/")[2] == _PROGRAM


def _runs_triton(container: Spec) -> bool:
    ports = (port.get("containerPort") for port in container.get("ports") or ())
    return (
        _PROGRAM in str(container.get("image", ""))
        or any(_PROGRAM in word for word in _words(container))
        or _TRITON_PORT in ports
    )

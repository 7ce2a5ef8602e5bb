"""What a call gives back: frozen values with numpy tensors, media facts, times and cost.

Times are nanoseconds of the server's monotonic clock, in the order of the path, and add up: the
stages plus the gap equal the total. Nothing here knows the wire; `replies.py` fills these in.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Self, TypeVar, overload

from numpy.typing import NDArray

from inference_client.errors import SidecarError


class Modality(enum.StrEnum):
    """Which kind of media an item is."""

    UNKNOWN = "unknown"
    IMAGE = "image"
    AUDIO = "audio"


class Grouping(enum.StrEnum):
    """How the items of a request become inferences."""

    UNKNOWN = "unknown"
    EACH = "each"
    TOGETHER = "together"


class ModelState(enum.StrEnum):
    """Whether a model can be asked now."""

    UNKNOWN = "unknown"
    READY = "ready"
    UNREACHABLE = "unreachable"
    MISMATCHED = "mismatched"
    MISSING = "missing"


class Priority(enum.StrEnum):
    """Whose work goes first among a tenant's own. A lower one waits as long as there is any of a higher."""

    PROBE = "probe"
    INTERACTIVE = "interactive"
    BATCH = "batch"


class Reuse(enum.StrEnum):
    """Whether an item's tensors were made for this call.

    MADE: they were, or it has none. KEPT: for an earlier one with the same content. SHARED: for another
    one at the same time.
    """

    UNKNOWN = "unknown"
    MADE = "made"
    KEPT = "kept"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Where the time went, a field a stage in the order of the path, in nanoseconds.

    0: the stage was not reached. `print(times)` shows a table in milliseconds.
    """

    receive_ns: int = 0
    probe_ns: int = 0
    admit_ns: int = 0
    decode_ns: int = 0
    transform_ns: int = 0
    pack_ns: int = 0
    deliver_ns: int = 0
    respond_ns: int = 0
    gap_ns: int = 0
    total_ns: int = 0

    @property
    def ms(self) -> dict[str, float]:
        """Milliseconds by stage: "receive" to "respond", then "gap" and "total"."""
        return {each.name.removesuffix("_ns"): getattr(self, each.name) / 1e6 for each in fields(self)}

    @property
    def total_ms(self) -> float:
        return self.total_ns / 1e6

    def __str__(self) -> str:
        share = 100 / self.total_ns if self.total_ns else 0.0
        lines = [f"{'stage':<10}{'ms':>10}{'%':>7}"]
        lines += [f"{name:<10}{ms:>10.3f}{ms * 1e6 * share:>7.1f}" for name, ms in self.ms.items()]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class ModelTimes:
    """Where the model's own time went, in nanoseconds of the model server's clock: in its queue, from there to the
    first token, and to the last. 0: it did not tell, or did not come so far. All of it is within `deliver_ns`.
    """

    queue_ns: int = 0
    first_token_ns: int = 0
    generation_ns: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What an item costs: CPU in milliseconds of one core, memory in bytes.

    `predicted_cpu_ms` is foretold from the header alone; `actual_cpu_ms` is 0 where no work was done for it:
    an item that was refused, or whose tensors were made for another call.
    """

    predicted_cpu_ms: float = 0.0
    actual_cpu_ms: float = 0.0
    decoded_bytes: int = 0
    output_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Facts of a picture: size in pixels as stored, mode in Pillow's words, EXIF orientation 1 to 8.

    `progressive`: stored in passes over the whole picture. `subsampling`: how a JPEG's colours are sampled,
    "4:2:0"; empty where that is not told.
    """

    width: int
    height: int
    mode: str = ""
    orientation: int = 1
    frames: int = 1
    progressive: bool = False
    subsampling: str = ""


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Facts of a sound: codec in FFmpeg's words, rate in hertz, length in seconds (0: not stated)."""

    codec: str = ""
    sample_rate: int = 0
    channels: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What was found in an item before it was decoded; `encoded_bytes` is its size as sent."""

    modality: Modality
    format: str
    encoded_bytes: int
    image: ImageInfo | None = None
    audio: AudioInfo | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WithTensors:
    """Something that carries named tensors: read-only arrays, BYTES as object arrays of bytes."""

    tensors: Mapping[str, NDArray[Any]]

    def tensor(self, name: str | None = None) -> NDArray[Any]:
        """The tensor of that name, or the only one. Raises KeyError naming those there are."""
        if name is None and len(self.tensors) == 1:
            return next(iter(self.tensors.values()))
        if name is None or name not in self.tensors:
            asked = "one tensor was asked for without a name" if name is None else f"there is no {name!r}"
            raise KeyError(f"{asked}; there are: {', '.join(self.tensors) or 'none'}")
        return self.tensors[name]

    def texts(self, name: str | None = None) -> list[str]:
        """All elements of a BYTES tensor as text (UTF-8), in row-major order."""
        array = self.tensor(name)
        if array.dtype != object:
            raise TypeError(f"only a BYTES tensor holds texts; this one is {array.dtype}{list(array.shape)}")
        return [element.decode() for element in array.ravel().tolist()]

    def text(self, name: str | None = None) -> str:
        """The one element of a BYTES tensor as text. Raises ValueError if it has more or none."""
        (only,) = self.texts(name)
        return only

    def __repr__(self) -> str:
        told = [f"{name}={array.dtype}{list(array.shape)}" for name, array in self.tensors.items()]
        return f"{type(self).__name__}({', '.join((*told, *self._further()))})"

    def _further(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class ItemResult(WithTensors):
    """What became of one item: its tensors, or the `problem` that it failed with and no tensors.

    `info` is None when not even the header could be read. `times` are the whole call's where one item
    was asked for alone; in a batch they are the item's own, and `receive`, `deliver` and `respond`,
    which belong to the call, are 0. `placeholder_tokens`: how many it takes in the model's prompt, None where
    the model has none or its files do not tell. `reuse` tells whose work its tensors are. `replayed`: the whole
    reply is that of an earlier call with the same idempotency key; times and costs are that call's.
    """

    info: MediaInfo | None
    times: StageTimes
    cost: Cost
    problem: SidecarError | None = None
    request_id: str = ""
    placeholder_tokens: int | None = None
    reuse: Reuse = Reuse.MADE
    replayed: bool = False

    def raise_for_problem(self) -> Self:
        """Raises the item's problem if it has one; gives the result itself otherwise."""
        if self.problem is not None:
            raise self.problem
        return self

    def _further(self) -> tuple[str, ...]:
        media = () if self.info is None else (f"{self.info.modality} {self.info.format}",)
        problem = () if self.problem is None else (f"problem={self.problem!r}",)
        return (*media, *problem, f"{self.times.total_ms:.3f} ms")


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Prepared(ItemResult):
    """An item as its model wants it: what the model's own processor would give."""


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Inference(ItemResult):
    """What the model answered for an item. `model` and `version` as the model server gives them; `model_times` where it
    was asked for alone and the model tells, as TensorRT-LLM does.
    """

    model: str = ""
    version: str = ""
    model_times: ModelTimes | None = None


ResultT_co = TypeVar("ResultT_co", bound=ItemResult, covariant=True)


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Batch(WithTensors, Sequence[ResultT_co], Generic[ResultT_co]):
    """One result an item, in the order of the request, and what belongs to the call as a whole.

    `tensors` are the outputs for all items together, from a model whose `grouping` is TOGETHER; empty
    otherwise. `times` are the call's (decode to pack: those of the item that was ready last), `cost`
    is the sum. `replayed` as for an item; `model_times` are those of the batch that was answered last.
    """

    items: tuple[ResultT_co, ...]
    times: StageTimes
    cost: Cost
    request_id: str = ""
    replayed: bool = False
    model_times: ModelTimes | None = None

    @overload
    def __getitem__(self, index: int) -> ResultT_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ResultT_co]: ...
    def __getitem__(self, index: int | slice) -> ResultT_co | Sequence[ResultT_co]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def raise_for_problem(self) -> Self:
        """Raises the first item's problem that there is; gives the batch itself otherwise."""
        for item in self.items:
            item.raise_for_problem()
        return self

    def _further(self) -> tuple[str, ...]:
        failed = sum(item.problem is not None for item in self.items)
        return (f"{len(self.items)} items", f"{failed} failed", f"{self.times.total_ms:.3f} ms")


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class StreamOutputs(WithTensors):
    """One response of a streaming model; `index` counts from 0."""

    index: int

    def _further(self) -> tuple[str, ...]:
        return (f"index {self.index}",)


@dataclass(frozen=True, slots=True)
class Finished:
    """Told after a stream's last response. `first_output_ns`: from hand-over to the first response.

    `model` and `version` as the model server gives them; `model_times` where the model tells.
    """

    times: StageTimes
    cost: Cost
    first_output_ns: int
    responses: int
    request_id: str = ""
    model: str = ""
    version: str = ""
    model_times: ModelTimes | None = None


@dataclass(frozen=True, slots=True)
class ItemEstimate:
    """What one item would cost (`cost` without an actual one), from its header or what was told of it.

    `problem` is why it could not be prepared at all; `info` is None when not even the header could be read.
    `placeholder_tokens` as for a result.
    """

    info: MediaInfo | None
    cost: Cost
    placeholder_tokens: int | None = None
    problem: SidecarError | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a call would cost and whether it would be let in, at the moment of asking; a promise of nothing.

    `cost` is the sum of the items', `wait_s` how many seconds it would take until the answer, waiting and work.
    `refusal` is the error that the call would end with now, None where it would be let in.
    """

    items: tuple[ItemEstimate, ...]
    cost: Cost
    wait_s: float
    refusal: SidecarError | None = field(default=None, compare=False)

    def raise_for_refusal(self) -> Self:
        """Raises the refusal if there is one; gives the estimate itself otherwise."""
        if self.refusal is not None:
            raise self.refusal
        return self


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's name, element type ("FP32", "BYTES") and shape without the batch axis (-1: varies)."""

    name: str
    data_type: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model's media is prepared, and whose bits (`reference`) are met, exactly or not."""

    processor: str
    reference: str
    exact: bool
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """What a model takes and gives. `problem` is why it cannot be asked now; None when it can."""

    name: str
    state: ModelState
    modality: Modality
    grouping: Grouping
    # Errors know no equality: of two answers about one model, each has its own.
    problem: SidecarError | None = field(default=None, compare=False)
    recipe: Recipe | None = None
    media_inputs: tuple[TensorSpec, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    decoupled: bool = False
    max_batch_size: int = 0

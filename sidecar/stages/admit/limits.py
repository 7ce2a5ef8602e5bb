"""What may come in at all: limits on facts that probe found, checked before anything is decoded.

Pure: facts in, MediaTooLarge out. A limit protects memory and time against one item; how many items
are inside at once is the gate's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Final

from annotated_types import Ge, Gt, Le

from sidecar.errors import MediaTooLarge
from sidecar.media import AudioInfo, DecodeTarget, ImageInfo, MediaInfo, Source
from sidecar.stages import ffmpeg, metadata
from sidecar.stages.admit.cost import decoded_bytes, sound_bytes_per_second

# A limit's key, the value found, the value allowed, and what they count.
_Claim = tuple[str, float, float, str]
_WHOLE = DecodeTarget()

# What probe looks at of a file at most, and so the most that can be allowed.
_MOST_METADATA: Final = metadata.MOST
_MOST_STREAMS: Final = ffmpeg.MOST_STREAMS


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one item, and one request, may bring.

    `items` counts media items of a request; `inputs_bytes` is bytes of its plain inputs, times the items
    that they go along with; `output_bytes` is bytes of the tensors made from its media, and
    `delivering_bytes` of all tensors that wait for the model server, over all calls; `media_bytes` is
    bytes of an encoded item and `upload_bytes` of all items of an upload;
    `decoded_bytes` is bytes of an item once decoded (3 a pixel,
    4 a sample of a channel, as far as the recipe wants it decoded), which is the memory that is foretold of
    it; `metadata_bytes` is bytes of an item that are no picture or sound: EXIF, XMP, profiles, texts, tags,
    covers, attachments; `image_pixels` is width × height, `image_side` the longer of them and `image_frames`
    a count of frames or pages; `audio_seconds` is seconds, `audio_channels` a count, `audio_rate`
    hertz and `audio_streams` a count of streams of any kind. The defaults are out of the air but for four:
    `media_bytes` is more than a message holds, so
    that uploads are for something; `decoded_bytes` holds the largest picture (300 MB), 25 minutes of
    44.1 kHz stereo or an hour of 16 kHz mono twice; `image_pixels` lets a 50-megapixel camera's picture
    in twice over and keeps a 200-megapixel one out; `image_frames` is less than probe counts of an animation
    without end. Of animations the first frame alone is ever decoded.
    """

    items: Annotated[int, Ge(1)] = 64
    inputs_bytes: Annotated[int, Ge(1)] = 64 * 1024 * 1024
    output_bytes: Annotated[int, Ge(1)] = 512 * 1024 * 1024
    delivering_bytes: Annotated[int, Ge(1)] = 1024 * 1024 * 1024
    media_bytes: Annotated[int, Ge(1)] = 256 * 1024 * 1024
    upload_bytes: Annotated[int, Ge(1)] = 512 * 1024 * 1024
    decoded_bytes: Annotated[int, Ge(1)] = 512 * 1024 * 1024
    image_pixels: Annotated[int, Ge(1)] = 100_000_000
    image_side: Annotated[int, Ge(1)] = 32_768
    image_frames: Annotated[int, Ge(1)] = 1_000
    audio_seconds: Annotated[float, Gt(0)] = 3_600.0
    audio_channels: Annotated[int, Ge(1)] = 8
    audio_rate: Annotated[int, Ge(1)] = 192_000
    audio_streams: Annotated[int, Ge(1), Le(_MOST_STREAMS)] = 32
    metadata_bytes: Annotated[int, Ge(0), Le(_MOST_METADATA)] = _MOST_METADATA

    def key(self, name: str) -> str:
        """The settings key that a limit is set by."""
        return f"limits.{name}"

    def check_output(self, source: Source, taken: int, wanted: int) -> None:
        """`wanted` bytes more of tensors, where the call's items have `taken` bytes already. Raises MediaTooLarge."""
        if taken + wanted > self.output_bytes:
            raise MediaTooLarge(
                f"{source.label} becomes tensors of {wanted} bytes, with which the call's pass the limit "
                f"`{self.key('output_bytes')}` {self.output_bytes}: send fewer or smaller items at once, or raise the "
                "limit",
                limit=self.key("output_bytes"),
                allowed=self.output_bytes,
                found=taken + wanted,
            )

    def check_size(self, encoded_bytes: int, label: str) -> None:
        """Raises MediaTooLarge when an item's encoded bytes pass the limit."""
        self._refuse_first(label, (("media_bytes", encoded_bytes, self.media_bytes, "bytes"),))

    def check(self, source: Source, info: MediaInfo, target: DecodeTarget = _WHOLE) -> None:
        """Raises MediaTooLarge, naming the limit, its value and the one found.

        `target` is what the recipe wants decoded. Where a sound's length is unknown nothing is foretold of
        its decoded bytes: decoding stops at `max_decoded_bytes`.
        """
        self._refuse_first(source.label, self._claims(info, target))

    def _claims(self, info: MediaInfo, target: DecodeTarget) -> Iterator[_Claim]:
        yield "metadata_bytes", info.metadata_bytes, self.metadata_bytes, "bytes of metadata"
        match info:
            case ImageInfo():
                yield "image_side", max(info.width, info.height), self.image_side, "pixels a side"
                yield "image_pixels", info.width * info.height, self.image_pixels, "pixels"
                yield "image_frames", info.frames, self.image_frames, "frames or pages"
            case AudioInfo():
                yield "audio_channels", info.channels, self.audio_channels, "channels"
                yield "audio_rate", info.sample_rate, self.audio_rate, "hertz"
                yield "audio_streams", info.streams, self.audio_streams, "streams"
                yield "audio_seconds", info.duration_s or 0.0, self.audio_seconds, "seconds"
                if info.duration_s is None:
                    return
        yield "decoded_bytes", decoded_bytes(info, target), self.decoded_bytes, "bytes once decoded"

    def max_decoded_bytes(self, info: MediaInfo, target: DecodeTarget = _WHOLE) -> int:
        """The most that decoding to `target` may leave, for headers that understate or are silent. Bytes."""
        match info:
            case ImageInfo():
                most = decoded_bytes(info, target)
            case AudioInfo():
                most = int(sound_bytes_per_second(info, target) * self.audio_seconds)
        return min(most, self.decoded_bytes)

    def _refuse_first(self, label: str, claims: Iterable[_Claim]) -> None:
        for limit, found, allowed, unit in claims:
            if found > allowed:
                raise MediaTooLarge(
                    f"{label} has {_text(found)} {unit} and the limit `{self.key(limit)}` is {_text(allowed)}: "
                    "send less, or raise the limit",
                    limit=self.key(limit),
                    allowed=_text(allowed),
                    found=_text(found),
                )


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What one model's items may bring, more or less than all others; None: as `limits` says."""

    output_bytes: Annotated[int, Ge(1)] | None = None
    media_bytes: Annotated[int, Ge(1)] | None = None
    decoded_bytes: Annotated[int, Ge(1)] | None = None
    image_pixels: Annotated[int, Ge(1)] | None = None
    image_side: Annotated[int, Ge(1)] | None = None
    image_frames: Annotated[int, Ge(1)] | None = None
    audio_seconds: Annotated[float, Gt(0)] | None = None
    audio_channels: Annotated[int, Ge(1)] | None = None
    audio_rate: Annotated[int, Ge(1)] | None = None
    audio_streams: Annotated[int, Ge(1), Le(_MOST_STREAMS)] | None = None
    metadata_bytes: Annotated[int, Ge(0), Le(_MOST_METADATA)] | None = None

    def over(self, limits: Limits, model: str) -> Limits:
        """`limits` with what is another for the model of that name."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        own = {name: value for name, value in own.items() if value is not None}
        if not own:
            return limits
        shared = {each.name: getattr(limits, each.name) for each in fields(Limits)}
        return _OneModelsLimits(**shared | own, model=model, own=frozenset(own))


@dataclass(frozen=True, slots=True)
class _OneModelsLimits(Limits):
    """Limits of which some are a model's own, and are refused with by its own keys."""

    model: str = ""
    own: frozenset[str] = frozenset()

    def key(self, name: str) -> str:
        # slots=True makes the class anew, which super() without arguments does not know.
        return f"models.{self.model}.limits.{name}" if name in self.own else Limits.key(self, name)


class LimitsByModel:
    """Limits by the name of the model that media is for."""

    def __init__(self, limits: Limits, models: Mapping[str, ModelLimits]) -> None:
        self.become(limits, models)

    def become(self, limits: Limits, models: Mapping[str, ModelLimits]) -> None:
        """Other limits, from the next question on."""
        self._limits = limits
        self._models = {name: own.over(limits, name) for name, own in models.items()}

    def of(self, model: str) -> Limits:
        """Those of a model; of one that there is not, those of all."""
        return self._models.get(model, self._limits)


def _text(number: float) -> str:
    """Counts to the last digit, seconds as short as they are."""
    return str(number) if isinstance(number, int) else f"{number:g}"

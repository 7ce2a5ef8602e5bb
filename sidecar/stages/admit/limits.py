"""What may come in at all: limits on facts that probe found, checked before anything is decoded.

Pure: facts in, MediaTooLarge out. A limit protects memory and time against one item; how many items
are inside at once is the gate's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from sidecar.errors import MediaTooLarge
from sidecar.media import AudioInfo, DecodeTarget, ImageInfo, MediaInfo, Source
from sidecar.stages.admit.cost import decoded_bytes, sound_bytes_per_second

# A limit's key, the value found, the value allowed, and what they count.
_Claim = tuple[str, float, float, str]
_WHOLE = DecodeTarget()


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one item, and one request, may bring.

    `items` counts media items of a request; `inputs_bytes` is bytes of its plain inputs, times the items
    that they go along with; `output_bytes` is bytes of the tensors made from its media, and
    `delivering_bytes` of all tensors that wait for the model server, over all calls; `media_bytes` is
    bytes of an encoded item and `upload_bytes` of all items of an upload;
    `decoded_bytes` is bytes of an item once decoded (3 a pixel,
    4 a sample of a channel, as far as the recipe wants it decoded); `image_pixels` is width × height and
    `image_side` the longer of them; `audio_seconds` is seconds, `audio_channels` a count and `audio_rate`
    hertz. The defaults are out of the air but for three: `media_bytes` is more than a message holds, so
    that uploads are for something; `decoded_bytes` holds the largest picture (300 MB), 25 minutes of
    44.1 kHz stereo or an hour of 16 kHz mono twice; `image_pixels` lets a 50-megapixel camera's picture
    in twice over and keeps a 200-megapixel one out.
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
    audio_seconds: Annotated[float, Gt(0)] = 3_600.0
    audio_channels: Annotated[int, Ge(1)] = 8
    audio_rate: Annotated[int, Ge(1)] = 192_000

    def check_output(self, source: Source, taken: int, wanted: int) -> None:
        """`wanted` bytes more of tensors, where the call's items have `taken` bytes already. Raises MediaTooLarge."""
        if taken + wanted > self.output_bytes:
            raise MediaTooLarge(
                f"{source.label} becomes tensors of {wanted} bytes, with which the call's pass the limit "
                f"`limits.output_bytes` {self.output_bytes}: send fewer or smaller items at once, or raise the limit",
                limit="limits.output_bytes",
                allowed=self.output_bytes,
                found=taken + wanted,
            )

    def check_size(self, encoded_bytes: int, label: str) -> None:
        """Raises MediaTooLarge when an item's encoded bytes pass the limit."""
        _refuse_first(label, (("media_bytes", encoded_bytes, self.media_bytes, "bytes"),))

    def check(self, source: Source, info: MediaInfo, target: DecodeTarget = _WHOLE) -> None:
        """Raises MediaTooLarge, naming the limit, its value and the one found.

        `target` is what the recipe wants decoded. Where a sound's length is unknown nothing is foretold of
        its decoded bytes: decoding stops at `max_decoded_bytes`.
        """
        _refuse_first(source.label, self._claims(info, target))

    def _claims(self, info: MediaInfo, target: DecodeTarget) -> Iterator[_Claim]:
        match info:
            case ImageInfo():
                yield "image_side", max(info.width, info.height), self.image_side, "pixels a side"
                yield "image_pixels", info.width * info.height, self.image_pixels, "pixels"
            case AudioInfo():
                yield "audio_channels", info.channels, self.audio_channels, "channels"
                yield "audio_rate", info.sample_rate, self.audio_rate, "hertz"
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


def _refuse_first(label: str, claims: Iterable[_Claim]) -> None:
    for limit, found, allowed, unit in claims:
        if found > allowed:
            raise MediaTooLarge(
                f"{label} has {_text(found)} {unit} and the limit `limits.{limit}` is {_text(allowed)}: "
                "send less, or raise the limit",
                limit=f"limits.{limit}",
                allowed=_text(allowed),
                found=_text(found),
            )


def _text(number: float) -> str:
    """Counts to the last digit, seconds as short as they are."""
    return str(number) if isinstance(number, int) else f"{number:g}"

"""The facts of a sound, by FFmpeg through PyAV, from its container's header.

FFmpeg gets the bytes and nothing else: the demuxer is forced, no protocol exists, and a second file
that a container refers to is refused before FFmpeg looks for it. It opens the audio decoder to learn
what only the first packet says (HE-AAC's real rate), and no video decoder, ever.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, BinaryIO, NoReturn

import av
from av.audio.stream import AudioStream
from av.container.input import InputContainer

from sidecar.errors import CorruptMedia, UnsupportedMedia
from sidecar.media import AudioInfo, Source
from sidecar.stages import ffmpeg, metadata
from sidecar.stages.probe import mp4, tags
from sidecar.stages.reader import reader

_MICROSECONDS = 1_000_000  # FFmpeg's unit for the duration of a whole container


def probe_audio(source: Source, name: str) -> AudioInfo:
    """Reads the container of format `name` (sniff's answer) as far as its first audio stream is known.

    `duration_s` is what the header states. ADTS, and MP3 without a Xing or VBRI header, state none:
    for them it is FFmpeg's estimate from the file's size and the first bit rate.
    """
    about = (
        mp4.require_sane_tables(source.data, source.label)
        if name == "mp4"
        else tags.tag_bytes(source.data, name)
    )
    metadata.require_little(about, source.label)
    with (
        ffmpeg.blaming(source.label, name),
        reader(source.data) as file,
        _opened(file, name) as container,
    ):
        streams = container.streams.audio
        if not streams:
            raise UnsupportedMedia(
                f"{source.label} is {name} without a sound stream: send a file that has sound"
            )
        facts = _facts(source, name, streams[0], container.duration)
        return replace(facts, streams=len(container.streams), metadata_bytes=about)


def _facts(source: Source, name: str, stream: AudioStream, container_duration: int | None) -> AudioInfo:
    codec = stream.codec_context
    # Streams that no decoder of this FFmpeg takes have no codec context at all, which stubs do not say.
    codec_name = codec.codec.canonical_name if codec else "an unknown kind of"
    if codec_name not in ffmpeg.CODECS:
        raise ffmpeg.unsupported_codec(source.label, name, codec_name)
    if codec.sample_rate <= 0 or codec.channels <= 0:
        raise CorruptMedia(
            f"{source.label} is {name} whose header gives no sample rate or no channels: "
            "check that the whole file was sent"
        )
    if codec.sample_rate not in ffmpeg.RATES:
        raise UnsupportedMedia(
            f"{source.label} claims {codec.sample_rate} samples a second, and {ffmpeg.RATES[0]} to "
            f"{ffmpeg.RATES[-1]} are taken: send it at a usual rate"
        )
    duration = None
    if stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    elif container_duration is not None:
        duration = container_duration / _MICROSECONDS
    return AudioInfo(
        format=name,
        encoded_bytes=len(source.data),
        codec=codec_name,
        sample_rate=codec.sample_rate,
        channels=codec.channels,
        duration_s=duration if duration and duration > 0 else None,
    )


def _opened(file: BinaryIO, name: str) -> InputContainer:
    return av.open(
        file,
        "r",
        format=ffmpeg.DEMUXERS[name],
        container_options={**ffmpeg.OPEN_OPTIONS, "protocol_whitelist": "none"},
        metadata_errors="replace",
        io_open=_refuse_to_open,
    )


def _refuse_to_open(url: str, _flags: int, _options: dict[str, Any]) -> NoReturn:
    message = f"a container refers to another file: {url[:80]!r}"
    raise PermissionError(message)

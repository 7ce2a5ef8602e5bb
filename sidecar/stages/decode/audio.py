"""Encoded sound to float32 samples, by FFmpeg, with the loop over its frames kept in C.

The chain is FFmpeg's own filter graph: `amovie` reads the bytes from a memory file and decodes,
`aresample` (where a rate is asked for) resamples and mixes down, `asetnsamples` hands over ten
seconds at a time (at 48 kHz). Python is entered once a block, so the GIL is free: two threads decode
twice as much as one, where a Python loop over frames gains nothing.

Blocks are written into one array of the length that the header claims, so the peak is the sound and
two blocks (measured: 1.09 times 212 MB). Where the header is silent or understates, the array grows
by half, and the peak may be twice the sound and more.

What the samples are:
- Whole numbers are scaled as soundfile and librosa do: int16 / 2**15, int24 and int32 / 2**31 of
  their left-aligned value, (uint8 - 128) / 128; floats are taken as they are.
- At a target rate, the mix to one channel and the resampling are swresample's with its defaults, as
  the `ffmpeg -ac 1 -ar RATE` of Whisper's reference runs them, but in float32 throughout: no
  rounding to 16 bits. `rematrix_maxval=1` keeps the mix at (L + R) / 2; FFmpeg's default for floats
  is 0.707 (L + R).
- Encoder delay is taken off where the file says how much: the LAME header of an MP3, the edit list
  of an MP4 (at its start; its end keeps the padding of the last packet), the pre-skip and end trim of
  Opus, the granule positions of Vorbis. ADTS cannot say, and
  an MP3 without a LAME header does not, so their first 1,024 to 2,112 samples of priming stay, as in
  every other player.
- The first sound stream is the one.

What damage does: a decoder that meets a broken packet goes on with the next, as every player does.
One lost packet per ten seconds begun is let pass (a cut last frame, a tag between joined MP3s); more
is CorruptMedia, because a model would answer from half a sentence and nobody would know. A file whose
header states its length and which holds less is CorruptMedia, cut short. Streams that end early
without ever stating a length (ADTS, Ogg) cannot be told from short ones. What lies behind the target's
`max_seconds` is never looked at, and so never blamed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import av.error
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.filter import Graph
from av.filter.context import FilterContext

from sidecar.errors import CorruptMedia, UnsupportedMedia
from sidecar.media import AudioInfo, DecodeTarget, Samples, Source
from sidecar.stages import ffmpeg
from sidecar.stages.reader import Encoded

# Most samples a block, ten seconds at 48 kHz: long enough that Python is not noticed, short enough that a
# limit is met early.
_BLOCK = 480_000
# One lost packet is let pass for each of these seconds begun: a quarter of a percent of AAC at 48 kHz.
_SECONDS_PER_LOST_PACKET = 10
# No file of the hours that anyone admits may lose more than this; ends a walk through garbage.
_MOST_LOST_PACKETS = 1000
# Headers and decoders count priming and padding differently: up to 2,112 samples of AAC (48 ms at
# 44.1 kHz) at either end.
_LENGTH_TOLERANCE_S = 0.1
_BYTES_PER_SAMPLE = 4
# Full scale is 1; floats that were never scaled down from 32-bit integers reach 2**31. Past 4e16 the power
# spectrum of 400 samples overflows float32. Decoders of damaged packets can exceed it as float WAVs can.
_LOUDEST = 2.0**32
# FFmpeg has a standard layout, and so a mix, for every count up to this.
_MOST_MIXED_CHANNELS = 8
# Where an MP3's length header or a WebM's list of streams is looked for, bytes.
_HEAD = 4096
# Where an MP3's length headers hold their count of frames, and whether a flag says that they do.
_MP3_LENGTHS = ((b"Xing", 8, True), (b"Info", 8, True), (b"VBRI", 14, False))
_MP3_PADDING_FRAMES = 4  # at most: 12 bits each of delay and padding, in frames of 1,152 or 576
_MPEG1_RATE = 32_000  # hertz; lower rates are MPEG-2's, whose frames are half as long
# Claims of a WAV from here on stand for "not known": writers to pipes use 2 GiB less a header, or more.
_STREAMED_WAV = 0x7FFF0000
_WAV_CHUNKS = 64


def decode_audio(source: Source, info: AudioInfo, target: DecodeTarget) -> Samples:
    """Decodes the first sound stream. Errors as `sidecar.stages.decode.decode` says."""
    if target.rate is not None and info.channels > _MOST_MIXED_CHANNELS:
        raise UnsupportedMedia(
            f"{source.label} has {info.channels} channels and at most {_MOST_MIXED_CHANNELS} are mixed down to "
            "one: send it with fewer"
        )
    with ffmpeg.blaming(source.label, info.format), ffmpeg.memory_file(source.data) as descriptor:
        # The graph must outlive its sink, which does not hold it.
        graph, sink = _graph(descriptor, info, target)
        samples = _collect(sink, source, info, target)
        del graph
        return samples


def _graph(descriptor: int, info: AudioInfo, target: DecodeTarget) -> tuple[Graph, FilterContext]:
    """The configured chain from the bytes behind `descriptor` to float32 blocks."""
    graph = Graph()
    graph.threads = 1
    options = {**ffmpeg.OPEN_OPTIONS, "protocol_whitelist": "fd", "fd": str(descriptor)}
    chain = [
        graph.add(
            "amovie",
            filename="fd:",
            format_name=ffmpeg.DEMUXERS[info.format],
            format_opts=":".join(f"{key}={value}" for key, value in options.items()),
            streams="a:0",
            dec_threads="1",
        )
    ]
    if target.rate is not None:
        chain.append(graph.add("aresample", f"{target.rate}:rematrix_maxval=1"))
        chain.append(graph.add("aformat", "sample_fmts=flt:channel_layouts=mono"))
    else:
        chain.append(graph.add("aformat", "sample_fmts=flt"))
    chain.append(graph.add("asetnsamples", f"n={_block(info, target)}:p=0"))
    chain.append(graph.add("abuffersink"))
    graph.link_nodes(*chain).configure()
    return graph, chain[-1]


def _wanted(info: AudioInfo, target: DecodeTarget) -> int | None:
    """How many samples a channel are enough; None for all."""
    rate = target.rate or info.sample_rate
    return None if target.max_seconds is None else max(1, math.ceil(target.max_seconds * rate))


def _block(info: AudioInfo, target: DecodeTarget) -> int:
    """Samples a block: such that what is wanted is a whole number of blocks, and nothing is decoded past it."""
    wanted = _wanted(info, target)
    return _BLOCK if wanted is None else math.ceil(wanted / math.ceil(wanted / _BLOCK))


def _collect(sink: FilterContext, source: Source, info: AudioInfo, target: DecodeTarget) -> Samples:
    channels = info.channels if target.rate is None else 1
    rate = target.rate or info.sample_rate
    wanted = _wanted(info, target)
    sound = _Sound(channels, _likely_samples(info, target, channels, rate))
    lost: list[av.error.InvalidDataError] = []
    for frame in _frames(sink, lost):
        if (frame.sample_rate, len(frame.layout.channels)) != (rate, channels):
            raise CorruptMedia(
                f"{source.label} says {info.channels} channels at {info.sample_rate} Hz in its header and "
                f"{len(frame.layout.channels)} at {frame.sample_rate} Hz further on: encode it again"
            )
        block = frame.to_ndarray().reshape(-1, channels)
        if wanted is not None:
            block = block[: wanted - sound.samples]
        _require_room(source, target, _BYTES_PER_SAMPLE * (sound.samples + len(block)) * channels)
        # So that what is no number, which compares as false, is refused too.
        if not (block.max(initial=0) <= _LOUDEST and block.min(initial=0) >= -_LOUDEST):
            raise CorruptMedia(
                f"{source.label} holds samples that are no numbers or beyond ±{_LOUDEST:.0f}, where full scale "
                "is ±1: export the sound again"
            )
        sound.add(block)
        if sound.samples == wanted:
            break
    _require_whole(source, info, sound.samples / rate, lost, is_cut=sound.samples == wanted)
    return Samples(sound.planes(), rate)


def _likely_samples(info: AudioInfo, target: DecodeTarget, channels: int, rate: int) -> int:
    """How many samples a channel to make room for: the header's claim, within what the target allows.

    Pages that are never written to are never real, so a claim that is too high costs an address range.
    A target without bounds is no reason to believe a header.
    """
    bounds = []
    if target.max_decoded_bytes is not None:
        bounds.append(target.max_decoded_bytes // (_BYTES_PER_SAMPLE * channels))
    if (wanted := _wanted(info, target)) is not None:
        bounds.append(wanted)
    if not bounds or info.duration_s is None:
        return min((_BLOCK, *bounds))
    return min((math.ceil((info.duration_s + _LENGTH_TOLERANCE_S) * rate), *bounds))


class _Sound:
    """float32 [channels, samples] in the making: filled from its start, in one piece of memory.

    `samples` counts those of a channel so far.
    """

    def __init__(self, channels: int, room: int) -> None:
        self.samples = 0
        self._planes: npt.NDArray[np.float32] = np.empty((channels, room), np.float32)

    def add(self, block: npt.NDArray[Any]) -> None:
        """Appends a block, [samples, channels].

        Blocks come interleaved because PyAV 18 reads past the end of frames with eight planes or more.
        """
        end = self.samples + len(block)
        channels, room = self._planes.shape
        if end > room:
            grown = np.empty((channels, max(end, room + room // 2)), np.float32)
            grown[:, : self.samples] = self._planes[:, : self.samples]
            self._planes = grown
        self._planes[:, self.samples : end] = block.T
        self.samples = end

    def planes(self) -> npt.NDArray[np.float32]:
        """The sound, C-contiguous: rows are moved up to each other in place. Nothing can be added after."""
        channels, room = self._planes.shape
        flat = self._planes.reshape(-1)
        if self.samples < room:
            for channel in range(1, channels):
                # Along one axis numpy moves overlapping memory in the right order, without a copy of its own.
                flat[channel * self.samples : (channel + 1) * self.samples] = flat[
                    channel * room : channel * room + self.samples
                ]
        return flat[: channels * self.samples].reshape(channels, self.samples)


def _frames(sink: FilterContext, lost: list[av.error.InvalidDataError]) -> Iterator[AudioFrame]:
    """Every block until the stream ends; undecodable packets on the way are added to `lost`."""
    while len(lost) <= _MOST_LOST_PACKETS:
        try:
            frame = sink.pull()
        except av.error.EOFError:
            return
        except av.error.InvalidDataError as error:
            lost.append(error)
        else:
            if isinstance(frame, AudioFrame):
                yield frame


def _require_room(source: Source, target: DecodeTarget, needed: int) -> None:
    if target.max_decoded_bytes is not None and needed > target.max_decoded_bytes:
        raise CorruptMedia(
            f"{source.label} goes on past the {target.max_decoded_bytes} bytes of decoded sound that its "
            "header and the limits allow: send a shorter recording",
            allowed=target.max_decoded_bytes,
            found=needed,
        )


def _require_whole(
    source: Source,
    info: AudioInfo,
    seconds: float,
    lost: list[av.error.InvalidDataError],
    *,
    is_cut: bool,
) -> None:
    """The rules on damage and on what is cut short, as the head of this file states them.

    `is_cut`: decoding stopped because it had enough, so that the stated length says nothing.
    """
    cause = lost[-1] if lost else None
    if not seconds:
        raise CorruptMedia(
            f"{source.label} is {info.format} without any sound that can be decoded: "
            "check that the whole file was sent"
        ) from cause
    stated = None if is_cut else _stated_seconds(source, info)
    whole = stated is not None and seconds >= stated - _LENGTH_TOLERANCE_S
    if len(lost) > 1 + seconds / _SECONDS_PER_LOST_PACKET and not whole:
        raise CorruptMedia(
            f"{source.label} is damaged {info.format}: {len(lost)} of its packets cannot be decoded, "
            f"{seconds:.1f} s remain: send an undamaged copy"
        ) from cause
    if stated is not None and seconds < stated - _LENGTH_TOLERANCE_S * (1 + len(lost)):
        raise CorruptMedia(
            f"{source.label} is cut short: its header states {stated:.2f} s and it holds {seconds:.2f} s: "
            "check that the whole file was sent"
        ) from cause


def _stated_seconds(source: Source, info: AudioInfo) -> float | None:
    """The length in seconds that the header states for this stream; None where it states none.

    `duration_s` may be an estimate of FFmpeg's instead. WebM states one length for all streams, so with
    pictures beside the sound it says nothing about the sound. ADTS and Ogg state none.
    """
    match info.format:
        case "wav":
            return _stated_by_wav(source.data, info)
        case "mp3":
            return _stated_by_mp3(source.data, info)
        case "flac" | "mp4":
            return info.duration_s
        case "webm" if b"V_" not in bytes(source.data[:_HEAD]):
            return info.duration_s
        case _:
            return None


def _stated_by_mp3(data: Encoded, info: AudioInfo) -> float | None:
    """The frames that a Xing, Info or VBRI header counts, less the padding that a LAME header takes off.

    FFmpeg's own answer mixes in the file's size, so whatever follows the last frame would count.
    """
    start = ffmpeg.tag_bytes(data)
    head = bytes(data[start : start + _HEAD])
    per_frame = 1152 if info.sample_rate >= _MPEG1_RATE else 576
    for name, count_at, flagged in _MP3_LENGTHS:
        at = head.find(name)
        if at >= 0 and (not flagged or (head[at + 7 : at + 8] and head[at + 7] & 1)):
            frames = int.from_bytes(head[at + count_at : at + count_at + 4], "big")
            return max(0, frames - _MP3_PADDING_FRAMES) * per_frame / info.sample_rate or None
    return None


def _stated_by_wav(data: Encoded, info: AudioInfo) -> float | None:
    """FFmpeg cuts a WAV's length to what the file holds, so the claim is read here, from the chunks.

    Streamed files claim nothing, or about 2 GiB or 4 GiB; RF64 claims 4 GiB and means another chunk.
    """
    at = 12
    for _ in range(_WAV_CHUNKS):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"data":
            held = len(data) - at - 8
            known = info.duration_s is not None and 0 < size < _STREAMED_WAV and held > 0
            return info.duration_s * max(1.0, size / held) if known and info.duration_s else None
        at += 8 + size + (size & 1)
    return None

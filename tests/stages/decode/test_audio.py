"""Samples are right in count, pitch, scale and channel; nothing but the given bytes is ever opened."""

from __future__ import annotations

import contextlib
import io
import math
import struct
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from sidecar.errors import CorruptMedia, MediaError, UnsupportedMedia
from sidecar.media import AudioInfo, DecodeTarget, Samples, Source
from sidecar.stages import ffmpeg
from sidecar.stages.decode import decode
from sidecar.stages.probe import probe
from sidecar.stages.probe.audio import probe_audio
from tests import corpus


def _decoded(source: Source, target: DecodeTarget | None = None) -> Samples:
    frames = decode(source, probe(source), target or DecodeTarget())
    assert isinstance(frames, Samples)
    return frames


def _pitch(samples: npt.NDArray[np.float32], rate: int) -> float:
    """The loudest frequency, hertz, from the middle half of the sound."""
    middle = samples[len(samples) // 4 : 3 * len(samples) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 17))
    return float(spectrum.argmax() * rate / (1 << 17))


def _wav(samples: npt.NDArray[np.generic], rate: int, *, kind: int = 1, extra: bytes = b"") -> bytes:
    """`samples` is [samples, channels], in the type that is stored."""
    channels, width = samples.shape[1], samples.itemsize
    pcm = samples.tobytes()
    fmt = struct.pack("<HHIIHH", kind, channels, rate, rate * channels * width, channels * width, 8 * width)
    body = (
        b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + extra + b"data" + struct.pack("<I", len(pcm)) + pcm
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(("name", "expected"), corpus.SOUNDS.items())
def test_every_sample_comes_out_at_the_stored_rate(name: str, expected: corpus.Sound) -> None:
    found = _decoded(corpus.source(name))
    assert (found.array.shape, found.rate) == ((expected.channels, expected.samples), expected.rate)
    assert (found.array.dtype.name, found.array.flags.c_contiguous) == ("float32", True)


@pytest.mark.parametrize(("name", "expected"), corpus.SOUNDS.items())
def test_each_channel_keeps_its_own_tone(name: str, expected: corpus.Sound) -> None:
    found = _decoded(corpus.source(name))
    assert [_pitch(channel, expected.rate) for channel in found.array] == pytest.approx(
        [440 * (n + 1) for n in range(expected.channels)], abs=2
    )


@pytest.mark.parametrize(("name", "expected"), corpus.SOUNDS.items())
def test_a_target_rate_gives_one_channel_of_the_same_length_in_time(
    name: str, expected: corpus.Sound
) -> None:
    found = _decoded(corpus.source(name), DecodeTarget(rate=16000))
    assert (found.rate, len(found.array)) == (16000, 1)
    assert found.array.shape[1] == pytest.approx(expected.samples * 16000 / expected.rate, abs=2)
    if expected.channels == 1:
        assert _pitch(found.array[0], 16000) == pytest.approx(440, abs=2)


def test_two_channels_are_mixed_to_their_mean() -> None:
    stereo = np.tile(np.array([8192, 16384], "<i2"), (16000, 1))
    found = _decoded(Source(_wav(stereo, 16000)), DecodeTarget(rate=16000))
    np.testing.assert_allclose(found.array, 0.375, atol=1e-6)


@pytest.mark.parametrize(
    ("stored", "kind", "expected"),
    [
        (np.array([0, 1, -32768, 32767], "<i2"), 1, np.array([0, 1, -32768, 32767]) / 32768),
        (np.array([128, 0, 255, 129], "u1"), 1, np.array([0, -128, 127, 1]) / 128),
        (np.array([0, 1 << 30, -(1 << 31), 256], "<i4"), 1, np.array([0, 0.5, -1, 256 / 2**31])),
        (np.array([0, 1.5, -2, 1e-9], "<f4"), 3, np.array([0, 1.5, -2, 1e-9])),
    ],
    ids=["int16", "uint8", "int32", "float32"],
)
def test_whole_numbers_are_scaled_as_soundfile_does(
    stored: npt.NDArray[np.generic], kind: int, expected: npt.NDArray[np.float64]
) -> None:
    found = _decoded(Source(_wav(np.tile(stored, 500)[:, None], 8000, kind=kind)))
    np.testing.assert_array_equal(found.array[0, :4], expected.astype(np.float32))


@pytest.mark.parametrize("channels", [7, 8, 9, 16, 32])
def test_many_channels_are_kept_apart(channels: int) -> None:
    stored = np.tile(np.arange(channels).astype("<i2"), (16000, 1))
    found = _decoded(Source(_wav(stored, 16000)))
    np.testing.assert_array_equal(found.array[:, 100] * 32768, np.arange(channels))


@pytest.mark.parametrize("value", [1e10, -1e30, np.inf, np.nan])
@pytest.mark.parametrize("rate", [None, 8000])
def test_samples_too_large_for_a_spectrum_are_corrupt(rate: int | None, value: float) -> None:
    stored = np.full((16000, 1), value, "<f4")
    with pytest.raises(CorruptMedia, match="no numbers or beyond ±4294967296"):
        _decoded(Source(_wav(stored, 16000, kind=3)), DecodeTarget(rate=rate))


def test_samples_that_were_never_scaled_down_are_let_pass() -> None:
    stored = np.full((16000, 1), -(2.0**31), "<f4")
    assert _decoded(Source(_wav(stored, 16000, kind=3))).array.min() == -(2.0**31)


def test_more_channels_than_have_a_mix_are_unsupported_at_a_target_rate() -> None:
    with pytest.raises(UnsupportedMedia, match="has 9 channels and at most 8 are mixed down"):
        _decoded(Source(_wav(np.zeros((8000, 9), "<i2"), 16000)), DecodeTarget(rate=16000))


@pytest.mark.parametrize(
    "name",
    [n for n in corpus.CORRUPT if n.rsplit(".", 1)[1] in {"wav", "flac", "mp3", "aac", "m4a", "ogg", "webm"}],
)
def test_a_broken_sound_is_corrupt_media(name: str) -> None:
    with pytest.raises(CorruptMedia) as refusal:
        _decoded(corpus.source(name))
    assert refusal.value.message.startswith(name)


@pytest.mark.parametrize("name", corpus.SHORT)
def test_a_cut_stream_that_states_no_length_is_a_short_one(name: str) -> None:
    assert _decoded(corpus.source(name)).array.size > 0


def _tone(seconds: float, codec: str, kind: str) -> bytes:
    out = io.BytesIO()
    time = np.arange(int(seconds * 44100)) / 44100
    sound = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)[None]
    with av.open(out, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=44100, layout="mono")
        for at in range(0, sound.shape[1] - 1151, 1152):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[:, at : at + 1152]), "fltp", "mono")
            frame.sample_rate, frame.pts = 44100, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def test_one_lost_packet_in_ten_seconds_is_let_pass() -> None:
    data = _tone(20, "libmp3lame", "mp3")
    middle = len(data) // 2
    joined = data[:middle] + b"ID3\x03\0\0\0\0\0\x40" + bytes(64) + data[middle:]
    assert _decoded(Source(joined)).array.shape[1] == pytest.approx(20 * 44100, abs=4000)


def test_damage_all_through_is_corrupt_media() -> None:
    data = bytearray(_tone(20, "libmp3lame", "mp3"))
    for at in range(len(data) // 10, len(data), 4000):
        data[at : at + 1500] = bytes(at * k % 251 for k in range(1500))
    with pytest.raises(CorruptMedia, match=r"packets cannot be decoded|cut short") as refusal:
        _decoded(Source(bytes(data)))
    assert refusal.value.__cause__ is not None


@pytest.mark.parametrize(
    "tail", [bytes(5000), b"TAG" + b"x" * 125, b"LYRICSBEGIN" + b"x" * 500 + b"LYRICS200"]
)
def test_what_follows_the_last_frame_does_no_harm(tail: bytes) -> None:
    name = "mp3_stereo_44k.mp3"
    found = _decoded(Source(corpus.audio(name) + tail))
    assert found.array.shape[1] == pytest.approx(corpus.SOUNDS[name].samples, abs=1152)


@pytest.mark.parametrize("rate", [None, 16000])
def test_decoding_stops_at_the_memory_that_the_target_allows(rate: int | None) -> None:
    silence = Source(_wav(np.zeros((60 * 16000, 1), "<i2"), 16000))
    whole = 4 * 60 * 16000
    assert _decoded(silence, DecodeTarget(rate=rate, max_decoded_bytes=whole)).array.nbytes == whole
    with pytest.raises(CorruptMedia, match="goes on past the 1000000 bytes"):
        _decoded(silence, DecodeTarget(rate=rate, max_decoded_bytes=1_000_000))


@pytest.mark.parametrize("name", corpus.SOUNDS)
@pytest.mark.parametrize("rate", [None, 16000])
@pytest.mark.parametrize("seconds", [1e-9, 0.1, 0.25, 60.0])
def test_the_start_of_a_sound_has_the_bits_of_the_whole(name: str, rate: int | None, seconds: float) -> None:
    whole = _decoded(corpus.source(name), DecodeTarget(rate=rate))
    start = _decoded(corpus.source(name), DecodeTarget(rate=rate, max_seconds=seconds))
    wanted = min(whole.array.shape[1], max(1, math.ceil(seconds * whole.rate)))
    assert start.array.flags.c_contiguous
    np.testing.assert_array_equal(whole.array[:, :wanted], start.array)


def test_a_start_of_several_blocks_has_the_bits_of_the_whole() -> None:
    """31 s at 44.1 kHz are three blocks, which are other ones than those of the whole."""
    source = Source(_tone(40, "libmp3lame", "mp3"))
    whole, start = _decoded(source), _decoded(source, DecodeTarget(max_seconds=31))
    assert start.array.shape == (1, 31 * 44_100)
    np.testing.assert_array_equal(whole.array[:, : 31 * 44_100], start.array)


@pytest.mark.parametrize("name", ["cut.wav", "cut.flac", "cut.mp3"])
def test_what_lies_behind_the_wanted_start_is_not_blamed(name: str) -> None:
    assert _decoded(corpus.source(name), DecodeTarget(max_seconds=0.05)).array.shape[1] > 0
    with pytest.raises(CorruptMedia):
        _decoded(corpus.source(name), DecodeTarget(max_seconds=60))


def test_damage_in_the_wanted_start_is_corrupt_media() -> None:
    data = bytearray(_tone(20, "libmp3lame", "mp3"))
    for at in range(len(data) // 10, len(data), 4000):
        data[at : at + 1500] = bytes(at * k % 251 for k in range(1500))
    with pytest.raises(CorruptMedia, match="packets cannot be decoded"):
        _decoded(Source(bytes(data)), DecodeTarget(max_seconds=10))


@pytest.mark.parametrize("claim", [None, 0.001, 21.0, 1e6])
def test_samples_do_not_depend_on_the_length_that_was_made_room_for(claim: float | None) -> None:
    """Nothing, too little, enough and far too much; each row has to be found and moved."""
    stored = np.random.default_rng(4).integers(-(2**15), 2**15, (20 * 48_000, 3), np.int16)
    data = _wav(stored, 48_000)
    # WAV's own claim would be checked against this one: its data chunk is made to claim nothing.
    at = data.index(b"data") + 4
    source = Source(data[:at] + b"\xff" * 4 + data[at + 4 :], label="noise")
    info = probe(source)
    assert isinstance(info, AudioInfo)
    found = decode(source, replace(info, duration_s=claim), DecodeTarget(max_decoded_bytes=1 << 30))
    assert found.array.flags.c_contiguous
    np.testing.assert_array_equal(found.array, stored.T / np.float32(2**15))


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_decoding_takes_little_more_memory_than_the_sound(channels: int) -> None:
    source = Source(_wav(np.zeros((150 * 48_000, channels), "<i2"), 48_000))
    info = probe(source)
    tracemalloc.start()
    try:
        found = decode(source, info, DecodeTarget(max_decoded_bytes=1 << 30))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.25 * found.array.nbytes


def test_a_streamed_wav_states_no_length() -> None:
    data = corpus.audio("wav_streamed.wav")
    assert _decoded(Source(data[: len(data) // 2])).array.shape[1] == 4000 - 11


def test_facts_that_changed_since_probe_are_corrupt_media() -> None:
    info = probe(corpus.source("wav_pcm16_mono_16k.wav"))
    with pytest.raises(
        CorruptMedia, match="says 1 channels at 16000 Hz in its header and 2 at 44100 Hz further on"
    ):
        decode(corpus.source("wav_pcm16_stereo_44k.wav"), info, DecodeTarget())


def test_two_threads_at_once_give_what_one_gives() -> None:
    sources = [corpus.source(name) for name in corpus.SOUNDS]
    expected = [_decoded(source).array for source in sources]
    found: dict[int, list[npt.NDArray[np.float32]]] = {}

    def work(number: int) -> None:
        found[number] = [_decoded(source).array for source in sources]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for arrays in found.values():
        for one, other in zip(expected, arrays, strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(found) == 2


def test_no_descriptor_is_left_open() -> None:
    before = _descriptors()
    for name in (*corpus.SOUNDS, *corpus.CORRUPT, *corpus.PICTURES):
        try:
            source = corpus.source(name)
            decode(source, probe(source), DecodeTarget(max_decoded_bytes=1 << 24))
        except MediaError:
            continue
    assert _descriptors() <= before  # what earlier tests left behind may be closed in between


def _descriptors() -> set[tuple[str, str]]:
    """Numbers of what this process has open, and what each is."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the folder's own
            found.add((entry.name, str(entry.readlink())))
    return found


def _with_outside_data(target: Path) -> bytes:
    """An M4A whose samples lie, so its data reference says, in the file `target` beside it."""
    data = bytearray(corpus.audio("aac_mono_44k.m4a"))
    at = data.index(b"url ") - 4
    path = str(target).encode()
    path += bytes(2 - len(path) % 2)
    alias = b"alis" + b"\0\0\0\0" + bytes(150) + struct.pack(">HH", 2, len(path)) + path + b"\xff\xff\0\0"
    entry = struct.pack(">I", len(alias) + 4) + alias
    grown = len(entry) - 12
    data[at : at + 12] = entry
    for box in (b"dref", b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        where = data.index(box) - 4
        size = int.from_bytes(data[where : where + 4], "big") + grown
        data[where : where + 4] = size.to_bytes(4, "big")
    return bytes(data)


def _referring(tmp_path: Path) -> dict[str, tuple[bytes, dict[str, str]]]:
    """For each demuxer that follows references: a file that refers to a good one, and what allows it to."""
    outside = tmp_path / "outside.wav"
    outside.write_bytes(corpus.audio("wav_pcm16_mono_16k.wav"))
    return {
        "concat": (f"ffconcat version 1.0\nfile {outside}\n".encode(), {"safe": "0"}),
        "hls": (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{outside}\n#EXT-X-ENDLIST\n".encode(),
            {"allowed_extensions": "ALL"},
        ),
        "mov": (_with_outside_data(outside), {"enable_drefs": "1", "use_absolute_path": "1"}),
    }


@pytest.mark.parametrize("demuxer", ["concat", "hls", "mov"])
def test_ffmpeg_left_alone_would_follow_the_reference(tmp_path: Path, demuxer: str) -> None:
    """The control of the next test: these files do what they are accused of."""
    data, options = _referring(tmp_path)[demuxer]
    asked: list[str] = []

    def note(url: str, _flags: int, _options: dict[str, str]) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(Path(url).read_bytes())

    try:
        with av.open(
            io.BytesIO(data), "r", format=demuxer, container_options=options, io_open=note
        ) as container:
            samples = sum(frame.samples for frame in container.decode(audio=0))
    except av.error.FFmpegError:
        samples = 0
    # concat opens with a context of its own, past any callback.
    assert asked == [str(tmp_path / "outside.wav")] or samples == 8000


@pytest.mark.parametrize("demuxer", ["concat", "hls", "mov"])
def test_ffmpeg_as_we_hold_it_reaches_nothing_but_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demuxer: str
) -> None:
    """Forced past sniff, with the options that switch references on, as if both had failed."""
    data, options = _referring(tmp_path)[demuxer]
    source = Source(data, label="script")
    monkeypatch.setitem(ffmpeg.DEMUXERS, "mp4", demuxer)
    for key, value in options.items():
        monkeypatch.setitem(ffmpeg.OPEN_OPTIONS, key, value)
    info = AudioInfo("mp4", len(data), "aac", 44100, 1, 0.5)
    with pytest.raises(CorruptMedia):
        probe_audio(source, "mp4")
    try:
        found = decode(source, info, DecodeTarget())
    except CorruptMedia:
        return
    # MP4: the reference is passed over, and the file's own bytes are taken for the sound.
    assert isinstance(found, Samples)
    np.testing.assert_array_equal(found.array, _decoded(corpus.source("aac_mono_44k.m4a")).array)


@pytest.mark.parametrize("name", ["playlist.m3u8", "playlist.ffconcat"])
def test_a_playlist_never_gets_as_far_as_ffmpeg(name: str) -> None:
    with pytest.raises(UnsupportedMedia, match=r"playlist|concat script"):
        probe(corpus.source(name))

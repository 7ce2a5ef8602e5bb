"""What content was found to be is let in or not by two lists, whatever it is called."""

from __future__ import annotations

import pytest

from sidecar.errors import SettingsError, UnsupportedMedia
from sidecar.media import Source
from sidecar.stages.admit.formats import FORMATS, FormatsConfig
from sidecar.stages.probe import AUDIO_FORMATS, IMAGE_FORMATS
from sidecar.workers.prober import Prober
from tests import corpus


def test_every_format_that_is_sniffed_is_let_in_unless_something_else_is_said() -> None:
    assert (*IMAGE_FORMATS, *AUDIO_FORMATS) == FORMATS
    for name in FORMATS:
        FormatsConfig().check(name, "item 0")


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (FormatsConfig(deny=("webp",)), "formats.deny"),
        (FormatsConfig(allow=("png", "jpeg")), "formats.allow"),
        (FormatsConfig(allow=("png", "jpeg", "webp"), deny=("webp",)), "formats.deny"),
    ],
)
def test_a_format_that_is_shut_out_is_refused_with_the_key_that_does_it(
    config: FormatsConfig, key: str
) -> None:
    with pytest.raises(UnsupportedMedia, match=r"^item 3 is webp, .*: send one of .*(jpeg|png)") as refused:
        config.check("webp", "item 3")
    assert refused.value.facts == {"limit": key, "found": "webp"}
    config.check("png", "item 3")


@pytest.mark.parametrize("key", ["allow", "deny"])
def test_a_format_that_there_is_not_is_told_with_those_that_there_are(key: str) -> None:
    with pytest.raises(SettingsError, match=rf"`formats\.{key}` has 'jpg': allowed are jpeg, png, webp"):
        FormatsConfig(**{key: ("jpg",)})


async def test_content_decides_and_no_library_meets_what_is_shut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("a library has met the bytes")

    monkeypatch.setattr("PIL.Image.open", refuse)
    monkeypatch.setattr("av.open", refuse)
    prober = Prober(1, FormatsConfig(deny=("webp", "ogg")))
    try:
        for name, claim in (("webp_lossy.webp", "image/png"), ("opus_mono_48k.opus", "audio/wav")):
            with pytest.raises(UnsupportedMedia, match=r"turned off here by `formats\.deny`"):
                await prober.probe(Source(corpus.data(name), claim, "cat.png"))
        prober.formats = FormatsConfig(deny=("png",))
        with pytest.raises(UnsupportedMedia, match="is png"):
            await prober.probe(corpus.source("png_named.jpg"))
    finally:
        await prober.close()

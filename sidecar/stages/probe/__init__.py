"""Probe: encoded bytes to facts, from the header alone.

Every byte of caller input meets this stage first. It never decodes, never allocates by what a header
claims, and whatever the bytes are raises only UnsupportedMedia or CorruptMedia.
"""

from __future__ import annotations

from sidecar.media import MediaInfo, Source
from sidecar.stages.probe.audio import probe_audio
from sidecar.stages.probe.image import probe_image
from sidecar.stages.probe.sniff import AUDIO_FORMATS, IMAGE_FORMATS, sniff

__all__ = ["AUDIO_FORMATS", "IMAGE_FORMATS", "probe", "sniff"]


def probe(source: Source) -> MediaInfo:
    """Finds out what `source` is, by its content: format, size, and the facts that its cost depends on.

    UnsupportedMedia where the content is no format, or no variant of one, that is decoded here;
    CorruptMedia where it is empty, or begins as such a format and cannot be read on.
    """
    name = sniff(source)
    return probe_image(source, name) if name in IMAGE_FORMATS else probe_audio(source, name)

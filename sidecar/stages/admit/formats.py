"""Which formats are let in: what content was found to be, against two lists of the operator's.

Pure, and asked before any library meets the bytes: a format with a hole in its library is shut out by one word, while
the server runs. It goes by what sniffing found; names and declared types are never looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sidecar.errors import SettingsError, UnsupportedMedia
from sidecar.stages import ffmpeg, pillow

FORMATS: Final = (*pillow.PLUGINS, *ffmpeg.DEMUXERS)
"""Every format that is decoded here, by the name that sniffing gives it."""


@dataclass(frozen=True, slots=True)
class FormatsConfig:
    """`allow`: formats that are let in, all that there are by default; `deny`: those of them that are not after all."""

    allow: tuple[str, ...] = FORMATS
    deny: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key, names in (("allow", self.allow), ("deny", self.deny)):
            for name in names:
                if name not in FORMATS:
                    raise SettingsError(
                        f"`formats.{key}` has {name!r}: allowed are {', '.join(FORMATS)}",
                        key=f"formats.{key}",
                        value=name,
                        allowed=", ".join(FORMATS),
                    )

    def check(self, name: str, label: str) -> None:
        """Raises UnsupportedMedia, naming the key, for an item of a format that is shut out."""
        key = "formats.deny" if name in self.deny else "formats.allow" if name not in self.allow else ""
        if not key:
            return
        rest = [each for each in self.allow if each not in self.deny]
        raise UnsupportedMedia(
            f"{label} is {name}, which is turned off here by `{key}`: send one of {', '.join(rest) or 'none'}",
            limit=key,
            found=name,
        )

"""Prints what is in this image as a CycloneDX 1.6 bill of materials: packages of Python, of Debian, and inside wheels.

Run inside the image, by the environment's own Python. It looks, and asks nobody. No package manager knows of libraries
inside wheels, so those that parse media are asked for their versions themselves.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import av
from PIL import features

PROJECT = "multimodal-sidecar"
# A namespace of the bill's own, so that equal images have equal serial numbers.
NAMESPACE = uuid.UUID("6f0f1c1e-2d3b-4c58-9d2a-8e7a51a3c0de")
DEBIAN = (
    "dpkg-query",
    "--show",
    "--showformat",
    "${Package}\t${Version}\t${Architecture}\t${source:Package}\n",
)


def main() -> int:
    parts = [*of_python(), *of_debian(), *inside_wheels()]
    serial = uuid.uuid5(NAMESPACE, json.dumps(parts, sort_keys=True))
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "name": PROJECT,
                "version": importlib.metadata.version(PROJECT),
                "bom-ref": "image",
            }
        },
        "components": parts,
    }
    print(json.dumps(bill, indent=1, sort_keys=True))
    return 0


def component(kind: str, name: str, version: str, purl: str, **properties: str) -> dict[str, Any]:
    told = [{"name": f"sidecar:{key}", "value": value} for key, value in sorted(properties.items())]
    return {
        "type": kind,
        "name": name,
        "version": version,
        "purl": purl,
        "bom-ref": purl,
        **({"properties": told} if told else {}),
    }


def of_python() -> Iterator[dict[str, Any]]:
    yield component(
        "platform", "python", platform.python_version(), f"pkg:generic/python@{platform.python_version()}"
    )
    found = {each.name.lower().replace("_", "-"): each.version for each in importlib.metadata.distributions()}
    for name, version in sorted(found.items()):
        yield component("library", name, version, f"pkg:pypi/{name}@{quote(version)}")


def of_debian() -> Iterator[dict[str, Any]]:
    release = platform.freedesktop_os_release()
    listed = subprocess.run(DEBIAN, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603 - spelled out
    for line in sorted(listed.splitlines()):
        name, version, architecture, source = line.split("\t")
        suite = f"{release['ID']}-{release.get('VERSION_ID', '')}"
        purl = f"pkg:deb/{release['ID']}/{name}@{quote(version)}?arch={architecture}&distro={suite}"
        yield component("library", name, version, purl, source=source)


def inside_wheels() -> Iterator[dict[str, Any]]:
    """FFmpeg's libraries inside av, and those that Pillow was built with, with who carries each."""
    for name, version in sorted(av.library_versions.items()):
        text = ".".join(map(str, version))
        yield component("library", name, text, f"pkg:generic/{name}@{text}", inside="av")
    pillow = next(name for name in ("pillow-simd", "pillow") if _is_installed(name))
    for feature in sorted({*features.get_supported_modules(), *features.get_supported_codecs()}):
        told = features.version(feature)
        if feature != "pil" and told:
            yield component("library", feature, told, f"pkg:generic/{feature}@{quote(told)}", used_by=pillow)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())

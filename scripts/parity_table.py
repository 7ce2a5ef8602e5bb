"""Compares every family with transformers over the whole corpus, and keeps the results as a table in the docs.

python scripts/parity_table.py            compares (minutes), writes bench/results/parity.json and the table
python scripts/parity_table.py --table    writes the table in docs/recipes.md anew from those results
python scripts/parity_table.py --check    returns 1 where the table is not that of the results

Where .venv-simd is, transformers' torchvision backend and its extractors' torch paths are compared too, there:
scripts/simd.sh makes it. Exits with 1 where a family is apart by more than it may.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.markdown import table
from testbed.parity import FAMILY_CONFIGS
from testbed.torchvision_import import import_torchvision
from tests import corpus
from tests.recipes import parity

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"
RESULTS = ROOT / "bench" / "results" / "parity.json"
OTHER = ROOT / ".venv-simd" / "bin" / "python"
MARKED = re.compile(r"(<!-- parity -->\n).*?(<!-- /parity -->)", re.DOTALL)
_REFUSED = (
    "Refused by both are pictures that the processor itself refuses, and beside the torchvision backend the files of"
    " formats that pillow-simd was built without."
)
EMPTY = "<!-- parity -->\n<!-- /parity -->\n"


def main() -> int:
    """Does what the arguments say."""
    if "--compare" in sys.argv:
        sys.stdout.write(json.dumps(compared()))
        return 0
    if not {"--table", "--check"} & set(sys.argv):
        result = everywhere()
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    result = json.loads(RESULTS.read_text(encoding="utf-8"))
    found = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    page = found if MARKED.search(found) else found + EMPTY
    page = MARKED.sub(lambda mark: f"{mark[1]}{tables(result)}\n{mark[2]}", page)
    if "--check" in sys.argv:
        if found != page:
            print(f"stale table in {PAGE.relative_to(ROOT)}: run python scripts/parity_table.py --table")
        return int(found != page)
    PAGE.write_text(page, encoding="utf-8")
    wrong = [row for row in result["rows"] if row["wrong"]]
    for row in wrong:
        print(f"{row['family']}, {row['backend']}: {'; '.join(row['wrong'])}")
    return int(bool(wrong))


def everywhere() -> dict[str, Any]:
    """The comparisons of each environment that is here, as one object."""
    command = (str(Path(__file__).absolute()), "--compare")
    started = [
        subprocess.Popen([str(python), *command], cwd=ROOT, stdout=subprocess.PIPE)  # noqa: S603 - ourselves
        for python in (sys.executable, *([OTHER] if OTHER.exists() else []))
    ]
    answers = [process.communicate()[0] for process in started]
    for process in started:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
    rows = [row for answer in answers for row in json.loads(answer)]
    versions = {"python": platform.python_version()} | {
        name: version(name) for name in ("transformers", "pillow", "numpy")
    }
    order = list(dict.fromkeys(row["family"] for row in rows))
    rows.sort(key=lambda row: (row["kind"], order.index(row["family"]), row["backend"]))
    return {"name": "parity", "versions": versions, "rows": rows}


def compared() -> list[dict[str, Any]]:
    """A row a family, with the judges of this environment."""
    with suppress(ImportError):
        import_torchvision()  # before transformers is, which imports it wherever it lies
    judges = parity.backends()
    pictures = {name: encode() for name, encode in parity.encoded_pictures().items()}
    clips = {name: corpus.audio(name) for name in corpus.SOUNDS}
    rows = []
    for family in parity.IMAGES:
        if parity.judged(family, judges["image"]):
            outcomes = {
                name: parity.compare_picture(family, judges["image"], data) for name, data in pictures.items()
            }
            rows.append(_row("picture", family, judges["image"], outcomes))
    for family in parity.SOUNDS:
        if parity.heard_by(family):
            outcomes = {name: parity.compare_sound(family, data) for name, data in clips.items()}
            rows.append(_row("sound", family, judges["sound"], outcomes))
    return rows


def _row(kind: str, family: str, backend: str, outcomes: Mapping[str, Any]) -> dict[str, Any]:
    taken = [each for each in outcomes.values() if not each.refused]
    return {
        "kind": kind,
        "family": family,
        "configuration": FAMILY_CONFIGS[family]["_name_or_path"],
        "backend": backend,
        "compared": len(taken),
        "refused": len(outcomes) - len(taken),
        "equal": all(not each.wrong and not each.apart for each in taken),
        "most_ulp": max((each.ulp for each in taken), default=0),
        "most_apart": max((each.apart for each in taken), default=0.0),
        "wrong": [
            f"{name}: {each.wrong or 'too far apart'}"
            for name, each in outcomes.items()
            if not parity.agrees(each, kind)
        ],
    }


def tables(result: Mapping[str, Any]) -> str:
    """Both tables, and where they are from."""
    pictures = [row for row in result["rows"] if row["kind"] == "picture"]
    sounds = [row for row in result["rows"] if row["kind"] == "sound"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return "\n\n".join(
        (
            table(
                ("family", "configuration", "backend", "images", "refused by both", "bit-equal", "max ulp"),
                _cells(pictures, "most_ulp", "d"),
            ),
            table(
                (
                    "family",
                    "configuration",
                    "path",
                    "sounds",
                    "refused by both",
                    "bit-equal",
                    "max difference",
                ),
                _cells(sounds, "most_apart", ".1e"),
            ),
            _REFUSED,
            f"{versions}. `python scripts/parity_table.py` compares anew.",
        )
    )


def _cells(rows: Sequence[Mapping[str, Any]], figure: str, form: str) -> list[tuple[str, ...]]:
    return [
        (
            row["family"],
            row["configuration"],
            row["backend"],
            str(row["compared"]),
            str(row["refused"]),
            "**no: wrong**" if row["wrong"] else "yes" if row["equal"] else "no",
            format(row[figure], form) if row[figure] else "0",
        )
        for row in rows
    ]


if __name__ == "__main__":
    sys.exit(main())

"""`python -m fuzz NAME [--seconds N] [--corpus DIR]`: atheris at one target, from its seeds and what is in DIR.

Files are mutated by their parts as often as by atheris. What breaks a promise is left in `fuzz/crashes/NAME/`; commit
it with its repair. It runs in the tests' environment with atheris's behind it on the path (scripts/fuzz.sh), and ends
with atheris's own exit code: 0 where nothing was found.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import atheris

# Compiled by numba, which reads bytecode, or not worth a counter: what is fuzzed is all else of ours, and Pillow.
_AS_THEY_ARE = ["sidecar.stages.kernels", "sidecar.stages.fourier", "sidecar.stages.unfilter"]

with atheris.instrument_imports(include=["sidecar", "PIL"], exclude=_AS_THEY_ARE):
    from fuzz.targets import CRASHES, TARGETS, Target, format_of
from testbed.hostile.mutate import MOST_BYTES, Mutator

# Seconds that an input may take by the clock, and MiB that the process may hold, before atheris calls it a finding.
_TIMEOUT_S, _RSS_MIB = 30, 3072


def main() -> None:
    """Never returns."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz one target.")
    parser.add_argument("name", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument(
        "--corpus", type=Path, help="a folder of inputs to begin with, which new ones are added to"
    )
    options = parser.parse_args()
    target = TARGETS[options.name]
    crashes = CRASHES / options.name
    crashes.mkdir(parents=True, exist_ok=True)
    seeds = list(target.seeds())
    with tempfile.TemporaryDirectory() as folder:
        corpus = options.corpus or Path(folder)
        corpus.mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            (corpus / blake2b(seed, digest_size=8).hexdigest()).write_bytes(seed)
        flags = [
            f"-max_total_time={options.seconds}", f"-timeout={_TIMEOUT_S}", f"-rss_limit_mb={_RSS_MIB}",
            f"-max_len={MOST_BYTES}", f"-artifact_prefix={crashes}/", "-print_final_stats=1", "-len_control=0",
        ]  # fmt: skip
        mutate = _by_parts(seeds) if target.media else None
        atheris.Setup([sys.argv[0], *flags, str(corpus)], _keeping(target, crashes), custom_mutator=mutate)
        atheris.Fuzz()


def _keeping(target: Target, crashes: Path) -> Callable[[bytes], None]:
    """The target, leaving what breaks a promise: atheris's own writing is cut off by its alarm where that was slow."""

    def run(data: bytes) -> None:
        try:
            target.run(data)
        except Exception:
            (crashes / blake2b(data, digest_size=8).hexdigest()).write_bytes(data)
            raise

    return run


def _by_parts(seeds: list[bytes]):  # type: ignore[no-untyped-def]  # noqa: ANN202 - what atheris takes
    """A mutator that takes files apart every other time."""
    by_format: dict[str, list[bytes]] = {}
    for seed in seeds:
        by_format.setdefault(format_of(seed) or "", []).append(seed)
    mutators = {name: Mutator(name, known, seeds) for name, known in by_format.items() if name}

    def mutated(data: bytes, most: int, number: int) -> bytes:
        mutator = mutators.get(format_of(data) or "") if number & 1 else None
        if mutator is None:
            return bytes(atheris.Mutate(data, most))
        return mutator.mutated(data, random.Random(number))[:most]  # noqa: S311 - no secret

    return mutated


if __name__ == "__main__":
    main()

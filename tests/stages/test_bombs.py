"""Bombs are refused from their headers, soon and before anything is taken for what they claim; and what looks like one
is a picture or a sound as ever.
"""

from __future__ import annotations

import contextlib
import time

import pytest

from sidecar.errors import MediaError, MediaTooLarge
from sidecar.media import DecodeTarget, Source
from sidecar.stages.admit.limits import Limits
from sidecar.stages.decode import decode
from sidecar.stages.probe import probe
from testbed.hostile.bombs import BOMBS, INERT
from testbed.memory import peak, renewed_peak
from tests import corpus

_LIMITS = Limits()


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """What libraries load at their first use is no bomb's."""
    for name in corpus.SOUNDS:
        probe(corpus.source(name))


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_50_ms_and_nothing_is_taken_for_it(name: str) -> None:
    source = Source(BOMBS[name](), label="item 5 (bomb)")
    spent, grown = [], []
    for _ in range(3):
        held, begun = renewed_peak(), time.thread_time()
        with pytest.raises((MediaError, MediaTooLarge)) as refused:
            _LIMITS.check(source, probe(source))
        spent.append(time.thread_time() - begun)
        grown.append(peak() - held)
        assert refused.value.message.startswith("item 5 (bomb)")
        if isinstance(refused.value, MediaTooLarge):
            assert refused.value.facts["limit"] in refused.value.message
            assert refused.value.facts["found"] in refused.value.message
    assert min(spent) < 0.05
    assert min(grown) < 8 << 20


@pytest.mark.parametrize("name", INERT)
def test_what_is_inert_is_decoded_or_refused_in_bounds(name: str) -> None:
    source = Source(INERT[name]())
    info = probe(source)
    _LIMITS.check(source, info)
    target = DecodeTarget(max_decoded_bytes=1 << 22)
    for turn in range(2):
        held, begun = renewed_peak(), time.thread_time()
        with contextlib.suppress(MediaError):
            assert decode(source, info, target).array.nbytes <= 1 << 22
        if turn:
            assert time.thread_time() - begun < 0.5
            assert peak() - held < (32 << 20) + 2 * len(source.data)

"""What the driver says of GPUs: all, some or none of them, and where it contradicts the accounts."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.observe.gpus import Gpu, Gpus, disagreement

GIB = 1 << 30


class NoAnswer(Exception):
    """Stands for what the driver raises."""


class Card:
    """A GPU as the scripted driver has it; what `fails` names fails."""

    def __init__(self, name: str = "H200", busy: int = 0, used: int = 0, fails: Sequence[str] = ()) -> None:
        self.name = name
        self.busy = busy
        self.used = used
        self.fails = fails


class Driver:
    """Stands in for the real driver's library: GPUs on demand, which fail on demand."""

    NVMLError = NoAnswer

    def __init__(self, *cards: Card, fails: Sequence[str] = ()) -> None:
        self.cards = cards
        self.fails = fails
        self.opened = 0

    def nvmlInit(self) -> None:  # noqa: N802 - the library's own name, as below
        self._answer("init")
        self.opened += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._answer("count")
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        self._answer("handle", self.cards[index])
        return self.cards[index]

    def nvmlDeviceGetName(self, handle: Card) -> str:  # noqa: N802
        self._answer("name", handle)
        return handle.name

    def nvmlDeviceGetUtilizationRates(self, handle: Card) -> SimpleNamespace:  # noqa: N802
        self._answer("rates", handle)
        return SimpleNamespace(gpu=handle.busy, memory=0)

    def nvmlDeviceGetMemoryInfo(self, handle: Card) -> SimpleNamespace:  # noqa: N802
        self._answer("memory", handle)
        return SimpleNamespace(total=140 * GIB, used=handle.used, free=140 * GIB - handle.used)

    def _answer(self, what: str, card: Card | None = None) -> None:
        if what in self.fails or (card is not None and what in card.fails):
            raise NoAnswer(what)


class TestLooks:
    def test_all_of_them_are_told_with_how_busy_and_how_full_they_are(self) -> None:
        driver = Driver(Card("H200", busy=83, used=35 * GIB), Card("T4"))
        gpus = Gpus(driver)
        assert gpus.look() == (Gpu(0, "H200", 0.83, 0.25), Gpu(1, "T4", 0.0, 0.0))
        driver.cards[1].busy = 100
        assert gpus.look()[1].utilisation == 1.0
        assert driver.opened == 1

    def test_none_are_none(self) -> None:
        assert Gpus(Driver()).look() == ()

    @pytest.mark.parametrize("what", ["init", "count"])
    def test_a_driver_that_is_not_there_has_none(self, what: str) -> None:
        assert Gpus(Driver(Card(), fails=[what])).look() == ()

    @pytest.mark.parametrize("what", ["handle", "name"])
    def test_one_that_cannot_be_opened_hides_no_other(self, what: str) -> None:
        gpus = Gpus(Driver(Card("first", fails=[what]), Card("second", busy=50)))
        assert gpus.look() == (Gpu(1, "second", 0.5, 0.0),)

    @pytest.mark.parametrize("what", ["rates", "memory"])
    def test_one_that_fails_at_a_look_is_left_out_of_that_look(self, what: str) -> None:
        card = Card("first", fails=[what])
        gpus = Gpus(Driver(card, Card("second")))
        assert [gpu.index for gpu in gpus.look()] == [1]
        card.fails = ()
        assert [gpu.index for gpu in gpus.look()] == [0, 1]


class TestTheRealDriver:
    def test_it_has_as_many_as_it_says_and_no_word_of_it_is_an_error(self) -> None:
        try:
            pynvml.nvmlInit()
            count = int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError:
            count = 0
        found = Gpus().look()
        assert len(found) <= count
        for gpu in found:
            assert 0 <= gpu.utilisation <= 1
            assert 0 <= gpu.memory <= 1

    def test_what_it_raises_is_what_is_caught(self) -> None:
        with pytest.raises(pynvml.NVMLError):
            pynvml.nvmlDeviceGetHandleByIndex(10_000)


class TestDisagreement:
    def test_a_driver_that_says_more_tells_of_others_work(self) -> None:
        words = disagreement(0.9, busy=0.3)
        assert words.startswith("the driver says 90% and the accounts 30%: something else uses the GPU too")

    def test_a_driver_that_says_less_tells_of_waits_beside_the_gpu(self) -> None:
        words = disagreement(0.2, busy=0.95)
        assert words.startswith(
            "the driver says 20% and the accounts 95%: executions wait for something beside"
        )

    @pytest.mark.parametrize("used", [0.3, 0.5, 0.7])
    def test_what_lies_near_each_other_is_no_contradiction(self, used: float) -> None:
        assert not disagreement(used, busy=0.5)

    @given(st.floats(0, 1), st.floats(0, 1))
    def test_whatever_they_say_it_is_one_of_three(self, used: float, busy: float) -> None:
        words = disagreement(used, busy)
        if abs(used - busy) < 0.249:
            assert not words
        elif words:
            assert ("something else uses" in words) is (used > busy)

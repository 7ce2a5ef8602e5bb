"""Asking first: when it is done, what travels, and that nothing of a call changes but that."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from multimodal.v1 import media_pb2, preprocessor_pb2

from inference_client import (
    AsyncClient,
    CallCancelled,
    Client,
    DeadlineExceeded,
    Hedges,
    InvalidRequest,
    Overloaded,
    Retries,
    ServerUnavailable,
    SidecarError,
    Unaffordable,
)
from inference_client.ask import Asking, again_in_s
from inference_client.calls import Calls
from tests import corpus
from tests.inference_client.asking_server import Answer, AskingServer, asking_server, wire
from tests.inference_client.scripted_server import Refusal, event
from tests.running import Running, running

Code = grpc.StatusCode
ONCE = Retries(attempts=1)
# A photo, and what a camera may leave behind it: large enough to be worth asking.
PHOTO = corpus.image("jpeg_420.jpg") + bytes(300_000)
SMALL = corpus.image("jpeg_420.jpg")
# Far less than the photo, and more than all that is sent beside it.
LITTLE = 20_000
OK = preprocessor_pb2.PreprocessResponse(items=[media_pb2.ItemResult()], request_id="ok")
LET_IN = Answer(OK)
OUTPUT = event(finished=preprocessor_pb2.Finished())


def full(pushback_ms: int | None = 20) -> Answer:
    return Answer(
        refusal=Refusal(
            Code.RESOURCE_EXHAUSTED, "OVERLOADED", facts={"retryable": "true"}, pushback_ms=pushback_ms
        )
    )


@pytest.fixture
async def asked() -> AsyncIterator[AskingServer]:
    async with asking_server() as scripted:
        scripted.script = [LET_IN]
        yield scripted


class TestWhen:
    """What is decided, by a clock of our own."""

    def _asking(self, when: Any = "auto") -> Asking:
        self.now = 100.0
        return Asking(when, lambda: self.now)

    def _overloaded(self, **more: Any) -> SidecarError:
        return Overloaded("full", status="RESOURCE_EXHAUSTED", **more)

    def test_nothing_is_asked_while_all_goes_well(self) -> None:
        assert not self._asking().asks(10**9)

    def test_a_push_back_turns_it_on_for_large_requests_until_ten_seconds_after_it(self) -> None:
        asking = self._asking()
        asking.note(self._overloaded(), 2.0)
        assert asking.asks(17_000)
        assert not asking.asks(16_000)
        self.now += 11.9
        assert asking.asks(17_000)
        self.now += 0.2
        assert not asking.asks(17_000)

    def test_each_push_back_keeps_it_on_and_a_shorter_one_does_not_end_it(self) -> None:
        asking = self._asking()
        asking.note(self._overloaded(), 5.0)
        asking.note(self._overloaded(), 0.1)
        self.now += 14
        assert asking.asks(17_000)
        asking.note(self._overloaded(retry_after_s=0.5), None)
        self.now += 10
        assert asking.asks(17_000)

    @pytest.mark.parametrize(
        ("error", "pushback_s"),
        [
            (Unaffordable("never", status="RESOURCE_EXHAUSTED"), math.inf),
            (Overloaded("no hint", status="RESOURCE_EXHAUSTED"), None),
            (ServerUnavailable("gone", status="UNAVAILABLE"), 1.0),
        ],
    )
    def test_other_failures_do_not(self, error: SidecarError, pushback_s: float | None) -> None:
        asking = self._asking()
        asking.note(error, pushback_s)
        assert not asking.asks(17_000)

    def test_always_and_never_are_what_they_say(self) -> None:
        assert self._asking("always").asks(17_000)
        never = self._asking("never")
        never.note(self._overloaded(), 1.0)
        assert not never.asks(17_000)

    @pytest.mark.parametrize("client", [Client, AsyncClient])
    async def test_other_words_are_refused_at_once(self, client: Any) -> None:
        with pytest.raises(ValueError, match="auto, always, never; found 'often'"):
            client(ask_first="often")

    def test_a_silent_sidecar_is_waited_for_briefly_and_a_known_one_longer(self) -> None:
        asking = self._asking()
        assert (asking.patience_s(30), asking.patience_s(0.4)) == (0.2, 0.1)
        asking.note_word(came=True)
        assert asking.patience_s(30) == 2.0
        asking.note_word(came=False)
        assert asking.patience_s(30) == 0.2

    def test_calls_tell_their_facts_while_it_is_on_and_no_longer(self) -> None:
        asking = self._asking()
        calls = Calls(2**20, None, asking)
        assert calls.preprocess("m", PHOTO).facts is None
        asking.note(self._overloaded(), 0.0)
        told = calls.preprocess("m", PHOTO, priority="batch").facts
        assert told is not None
        assert (told.infos[0].format, told.priority) == ("jpeg", preprocessor_pb2.PRIORITY_BATCH)
        assert calls.infer("m", PHOTO, None).facts is not None
        self.now += 10.1
        assert calls.preprocess("m", PHOTO).facts is None

    def test_uploads_and_media_of_unknown_facts_do_not_ask(self) -> None:
        calls = Calls(2**20, None, Asking("always"))
        assert calls.preprocess("m", PHOTO + bytes(2**20)).facts is None
        assert calls.preprocess("m", [PHOTO, corpus.audio("mp3_mono_16k.mp3")]).facts is None
        assert calls.infer("m", None, {"prompt": "x" * 2**15}).facts is None


class TestWhatTravels:
    async def test_a_refusal_comes_before_any_of_the_media_is_sent(
        self, connect: Any, asked: AskingServer
    ) -> None:
        asked.script = [full(pushback_ms=-1)]
        async with wire(asked.address) as counted:
            caller = connect(counted.address, ask_first="always")
            with pytest.raises(Overloaded):
                await caller.preprocess("m", PHOTO)
            await caller.close()
        assert asked.read == [[]]
        assert 0 < counted.sent < LITTLE

    async def test_a_call_that_is_let_in_sends_its_request_once_and_whole(
        self, connect: Any, asked: AskingServer
    ) -> None:
        async with wire(asked.address) as counted:
            caller = connect(counted.address, ask_first="always", tenant="agents")
            await caller.preprocess("m", PHOTO, request_id="mine")
            await caller.close()
        ((message,),) = asked.read
        request = preprocessor_pb2.PreprocessRequest.FromString(message)
        assert (request.request_id, request.media[0].inline) == ("mine", PHOTO)
        assert (asked.facts().model, asked.facts().infos[0].encoded_bytes) == ("m", len(PHOTO))
        assert (asked.told[0]["x-media-ask-first"], asked.told[0]["x-tenant-id"]) == ("1", "agents")
        assert len(PHOTO) < counted.sent < len(PHOTO) + LITTLE

    async def test_a_small_request_is_sent_at_once(self, connect: Any, asked: AskingServer) -> None:
        asked.script = [Answer(OK, silent=True)]
        await connect(asked.address, ask_first="always").preprocess("m", SMALL)
        assert "x-media-facts-bin" not in asked.told[0]
        assert "x-media-ask-first" not in asked.told[0]

    async def test_grpc_retries_a_refusal_after_its_push_back_and_the_media_travels_once(
        self, connect: Any, asked: AskingServer
    ) -> None:
        asked.script = [full(), full(), LET_IN]
        async with wire(asked.address) as counted:
            caller = connect(counted.address, ask_first="always")
            await caller.preprocess("m", PHOTO)
            await caller.close()
        assert [len(read) for read in asked.read] == [0, 0, 1]
        assert asked.told[2]["grpc-previous-rpc-attempts"] == "2"
        assert len(PHOTO) < counted.sent < len(PHOTO) + LITTLE

    async def test_the_last_refusal_is_raised_when_the_attempts_are_spent(
        self, connect: Any, asked: AskingServer
    ) -> None:
        asked.script = [full()]
        with pytest.raises(Overloaded) as caught:
            await connect(asked.address, ask_first="always").preprocess("m", PHOTO)
        assert (caught.value.status, caught.value.retryable) == ("RESOURCE_EXHAUSTED", True)
        assert asked.read == [[], [], [], []]

    async def test_an_inference_asks_too_and_so_does_a_stream(
        self, connect: Any, asked: AskingServer
    ) -> None:
        caller = connect(asked.address, ask_first="always", retries=ONCE)
        asked.script = [Answer(preprocessor_pb2.InferResponse(items=[media_pb2.ItemResult()]))]
        await caller.infer("m", PHOTO)
        asked.script = [Answer(OUTPUT)]
        outputs, stream = await caller.stream("m", PHOTO)
        assert (outputs, stream.finished is not None) == ([], True)
        assert [len(read) for read in asked.read] == [1, 1]
        asked.script = [full()]
        with pytest.raises(Overloaded):
            await caller.stream("m", PHOTO)
        assert asked.read[-1] == []

    async def test_two_at_once_are_let_in_each_with_its_own_message(
        self, connect: Any, asked: AskingServer
    ) -> None:
        gate = asyncio.Event()
        asked.script = [Answer(OK, gate=gate)]
        caller = connect(asked.address, ask_first="always")
        both = [asyncio.create_task(caller.preprocess("m", PHOTO, request_id=each)) for each in "ab"]
        await asked.asked.wait()
        gate.set()
        await asyncio.gather(*both)
        sent = [preprocessor_pb2.PreprocessRequest.FromString(message) for (message,) in asked.read]
        assert sorted(each.request_id for each in sent) == ["a", "b"]

    async def test_a_push_back_that_was_seen_makes_the_next_call_ask(
        self, connect: Any, asked: AskingServer
    ) -> None:
        caller = connect(asked.address, retries=ONCE)
        asked.script = [full(), LET_IN]
        with pytest.raises(Overloaded):
            await caller.preprocess("m", PHOTO)
        await caller.preprocess("m", PHOTO)
        assert ["x-media-ask-first" in each for each in asked.told] == [False, True]

    async def test_a_push_back_that_was_mended_by_the_clients_own_wait_counts_too(
        self, connect: Any, asked: AskingServer
    ) -> None:
        caller = connect(asked.address, hedges=Hedges(after_s=20, budget=1))
        asked.script = [full(), LET_IN]
        await caller.preprocess("m", PHOTO)
        await caller.preprocess("m", PHOTO)
        assert ["x-media-ask-first" in each for each in asked.told] == [False, False, True]

    async def test_a_call_that_asks_first_is_not_hedged(self, connect: Any, asked: AskingServer) -> None:
        gate = asyncio.Event()
        asked.script = [Answer(OK, late=gate)]
        caller = connect(asked.address, ask_first="always", hedges=Hedges(after_s=0.01, budget=1))
        call = asyncio.create_task(caller.preprocess("m", PHOTO))
        await asyncio.wait([call], timeout=0.1)
        gate.set()
        await call
        assert len(asked.told) == 1


class TestWhatGoesWrong:
    @pytest.mark.parametrize(("attempts", "tries"), [(4, 2), (1, 1)])
    async def test_a_call_that_is_refused_after_it_was_let_in_begins_anew_once_if_it_may_be_retried(
        self, connect: Any, asked: AskingServer, attempts: int, tries: int
    ) -> None:
        busy = Refusal(Code.RESOURCE_EXHAUSTED, "OVERLOADED", facts={"retryable": "true"}, retry_after_s=0.01)
        asked.script = [Answer(full=busy)]
        caller = connect(asked.address, ask_first="always", retries=Retries(attempts=attempts))
        with pytest.raises(Overloaded):
            await caller.preprocess("m", PHOTO)
        assert [len(read) for read in asked.read] == [1] * tries
        asked.script = [Answer(full=busy), LET_IN]
        if attempts > 1:
            await caller.preprocess("m", PHOTO)

    @pytest.mark.parametrize(
        ("error", "seconds"),
        [
            (Overloaded("full", status="RESOURCE_EXHAUSTED", retry_after_s=0.5), 0.5),
            (Overloaded("full", status="RESOURCE_EXHAUSTED", retry_after_s=1.5), None),
            (Overloaded("full", status="RESOURCE_EXHAUSTED"), None),
            (Unaffordable("never", status="RESOURCE_EXHAUSTED", retry_after_s=0.5), None),
            (InvalidRequest("bad", status="INVALID_ARGUMENT", retryable=True, retry_after_s=0.5), None),
        ],
    )
    def test_it_does_so_after_the_servers_hint_and_only_within_the_deadline(
        self, error: SidecarError, seconds: float | None
    ) -> None:
        assert again_in_s(error, 1.0) == seconds

    async def test_a_sidecar_that_does_not_know_of_it_is_sent_the_request_all_the_same(
        self, connect: Any, asked: AskingServer
    ) -> None:
        asked.script = [Answer(OK, silent=True)]
        caller = connect(asked.address, ask_first="always")
        for _ in range(2):
            await caller.preprocess("m", PHOTO)
        assert [len(read) for read in asked.read] == [1, 1]

    async def test_a_stream_of_a_sidecar_that_does_not_know_of_it_works_all_the_same(
        self, connect: Any, asked: AskingServer
    ) -> None:
        asked.script = [Answer(OUTPUT, silent=True)]
        _, stream = await connect(asked.address, ask_first="always").stream("m", PHOTO)
        assert stream.finished is not None

    @pytest.mark.parametrize("let_in", [False, True])
    async def test_a_sidecar_that_dies_in_between_is_unavailable(
        self, connect: Any, asked: AskingServer, let_in: bool
    ) -> None:
        never = asyncio.Event()
        asked.script = [Answer(OK, late=never) if let_in else Answer(OK, gate=never)]
        caller = connect(asked.address, ask_first="always", retries=ONCE)
        call = asyncio.create_task(caller.preprocess("m", PHOTO))
        await asked.asked.wait()
        await asked.server.stop(grace=None)
        with pytest.raises(ServerUnavailable):
            await call

    async def test_the_deadline_holds_while_the_sidecar_is_silent(
        self, connect: Any, asked: AskingServer
    ) -> None:
        asked.script = [Answer(OK, gate=asyncio.Event())]
        with pytest.raises(DeadlineExceeded):
            await connect(asked.address, ask_first="always").preprocess("m", PHOTO, timeout=0.2)

    async def test_closing_the_client_ends_a_call_that_waits_to_be_let_in(
        self, connect: Any, asked: AskingServer
    ) -> None:
        asked.script = [Answer(OK, gate=asyncio.Event())]
        caller = connect(asked.address, ask_first="always")
        call = asyncio.create_task(caller.preprocess("m", PHOTO))
        await asked.asked.wait()
        await caller.close()
        with pytest.raises(CallCancelled):
            await call

    async def test_cancelling_the_task_cancels_the_call_and_its_message(self, asked: AskingServer) -> None:
        asked.script = [Answer(OK, gate=asyncio.Event())]
        async with AsyncClient(asked.address, ask_first="always") as client:
            call = asyncio.create_task(client.preprocess("m", PHOTO))
            await asked.asked.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert asked.read == [[]]

    async def test_leaving_a_stream_that_waits_to_be_let_in_ends_it(self, asked: AskingServer) -> None:
        asked.script = [Answer(OK, gate=asyncio.Event())]
        with Client(asked.address, ask_first="always") as client:

            def leave(until: threading.Event) -> None:
                with client.infer_stream("m", PHOTO):
                    until.wait()

            leaving = threading.Event()
            left = asyncio.create_task(asyncio.to_thread(leave, leaving))
            await asked.asked.wait()
            leaving.set()
            await left
        assert asked.read == [[]]

    async def test_the_blocking_client_leaves_no_thread_behind(self, asked: AskingServer) -> None:
        before = set(threading.enumerate())
        asked.script = [full(), LET_IN, full(), Answer(OUTPUT)]

        def use() -> set[threading.Thread]:
            with Client(asked.address, ask_first="always", retries=ONCE) as client:
                with pytest.raises(Overloaded):
                    client.preprocess("m", PHOTO)
                client.preprocess("m", PHOTO)
                with pytest.raises(Overloaded), client.infer_stream("m", PHOTO) as refused:
                    list(refused)
                with client.infer_stream("m", PHOTO) as stream:
                    list(stream)
            return set(threading.enumerate()) - before - {threading.current_thread()}

        for thread in await asyncio.to_thread(use):
            await asyncio.to_thread(thread.join, 5)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def sidecar() -> Iterator[Running]:
    """A sidecar that takes the photo, and refuses for good what decodes to more than a megabyte."""
    with running({"clip": "clip-vit-base-patch32"}, None, f"gate.memory_bytes={2**20}") as sidecar:
        yield sidecar


class TestWithTheSidecar:
    async def test_a_call_that_asks_gets_what_one_gets_that_does_not(
        self, connect: Any, sidecar: Running
    ) -> None:
        plain = await connect(sidecar.address, ask_first="never").preprocess("clip", PHOTO)
        asked = await connect(sidecar.address, ask_first="always").preprocess("clip", PHOTO, fresh=True)
        assert np.array_equal(plain.tensor("pixel_values"), asked.tensor("pixel_values"))

    async def test_its_refusal_by_facts_is_raised_as_any_other(self, connect: Any, sidecar: Running) -> None:
        # Noise, so that it is large: a megapixel of it decodes to three megabytes.
        pixels = np.random.default_rng(5).integers(0, 256, (1000, 1000, 3), np.uint8)
        caller = connect(sidecar.address, ask_first="always")
        with pytest.raises(Unaffordable, match="decodes to 3000000 bytes"):
            await caller.preprocess("clip", pixels)
        assert (await caller.preprocess("clip", PHOTO)).info.format == "jpeg"

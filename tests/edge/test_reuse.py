"""Equal work once, through real channels: results kept and shared, replies told again, and to whom neither is given."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from inference_client import AsyncClient, Client, CorruptMedia, InvalidRequest, Reuse, Unaffordable
from sidecar.media import Modality
from testbed.triton import Triton
from tests.isolation.inside import Inside, inside
from tests.running import running

pytestmark = pytest.mark.triton

CLIP = "clip-vit-base-patch32"


def picture(seed: int, side: int = 200, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(file, form)
    return file.getvalue()


@pytest.fixture(scope="module")
def keeping(triton: Triton) -> Iterator[Inside]:
    """A sidecar that keeps results, as it does by default."""
    with inside(
        {"clip": CLIP}, triton.grpc_address, "cache.enabled=true", "models.clip.upstream=checksum_fp32"
    ) as it:
        yield it


@pytest.fixture
def client(keeping: Inside) -> Iterator[Client]:
    with Client(keeping.sidecar.address) as client:
        yield client


def finished(it: Inside) -> int:
    """Jobs that workers have done so far."""
    return it.workers.statistics()[Modality.IMAGE].finished_total


class TestResults:
    def test_what_was_prepared_before_is_given_again_and_says_so(self, client: Client) -> None:
        made = client.preprocess("clip", picture(1))
        kept = client.preprocess("clip", picture(1))
        assert (made.reuse, kept.reuse) == (Reuse.MADE, Reuse.KEPT)
        assert kept.cost.actual_cpu_ms == 0 < made.cost.actual_cpu_ms
        assert kept.tensor("pixel_values").tobytes() == made.tensor("pixel_values").tobytes()

    def test_the_model_is_given_a_kept_result_as_any(self, client: Client) -> None:
        first = client.infer("clip", picture(2)).tensor("checksum")
        again = client.infer("clip", picture(2))
        assert again.reuse is Reuse.KEPT
        assert list(again.tensor("checksum")) == list(first)

    def test_items_of_one_call_are_kept_each_and_stay_one_batch(self, client: Client) -> None:
        alone = [list(client.infer("clip", picture(seed)).tensor("checksum")) for seed in (3, 4)]
        mixed = client.infer("clip", [picture(3), picture(5), picture(4)])
        assert [item.reuse for item in mixed] == [Reuse.KEPT, Reuse.MADE, Reuse.KEPT]
        assert {int(item.tensor("batch_rows")[0]) for item in mixed} == {3}
        assert [list(mixed[place].tensor("checksum")) for place in (0, 2)] == alone
        assert client.infer("clip", picture(5)).reuse is Reuse.KEPT

    def test_another_element_type_is_another_result(self, client: Client) -> None:
        client.preprocess("clip", picture(6))
        assert client.preprocess("clip", picture(6), data_type="FP16").reuse is Reuse.MADE
        assert client.preprocess("clip", picture(6), data_type="FP16").reuse is Reuse.KEPT

    def test_who_wants_it_fresh_is_given_no_kept_result_and_leaves_none(self, client: Client) -> None:
        assert client.preprocess("clip", picture(7), fresh=True).reuse is Reuse.MADE
        assert client.preprocess("clip", picture(7)).reuse is Reuse.MADE
        assert client.preprocess("clip", picture(7), fresh=True).reuse is Reuse.MADE

    def test_a_tenant_is_not_given_what_another_has_sent(self, keeping: Inside) -> None:
        with (
            Client(keeping.sidecar.address, tenant="a") as one,
            Client(keeping.sidecar.address, tenant="b") as other,
        ):
            one.preprocess("clip", picture(8))
            assert other.preprocess("clip", picture(8)).reuse is Reuse.MADE
            assert one.preprocess("clip", picture(8)).reuse is Reuse.KEPT

    def test_what_is_kept_goes_when_the_arena_is_needed(self) -> None:
        with running(
            {"clip": CLIP}, None, "cache.enabled=true", "arena.bytes=8388608", "cache.bytes=8388608"
        ) as full:
            with Client(full.address) as client:
                for seed in range(30):
                    assert client.preprocess("clip", picture(seed)).reuse is Reuse.MADE
                assert client.preprocess("clip", picture(29)).reuse is Reuse.KEPT


def test_a_call_that_can_never_be_done_is_refused_as_a_call_where_results_are_kept() -> None:
    with running({"clip": CLIP}, None, "cache.enabled=true", "gate.memory_bytes=1000") as small:
        with Client(small.address) as client, pytest.raises(Unaffordable):
            client.preprocess("clip", [picture(40)])


class TestFlights:
    async def test_sixty_four_who_send_the_same_at_once_have_it_made_once(self, keeping: Inside) -> None:
        before = finished(keeping)
        content = picture(10, side=1200)
        async with AsyncClient(keeping.sidecar.address) as client:
            answers = await asyncio.gather(*(client.preprocess("clip", content) for _ in range(64)))
        assert finished(keeping) - before == 1
        assert len({answer.tensor("pixel_values").tobytes() for answer in answers}) == 1
        assert [answer.reuse for answer in answers].count(Reuse.MADE) == 1

    async def test_a_leader_who_leaves_costs_its_followers_nothing_but_time(self, keeping: Inside) -> None:
        content = picture(11, side=1600)
        async with AsyncClient(keeping.sidecar.address) as client:
            leader = asyncio.create_task(client.preprocess("clip", content))
            followers = [asyncio.create_task(client.preprocess("clip", content)) for _ in range(3)]
            await asyncio.sleep(0)
            leader.cancel()
            answers = await asyncio.gather(*followers)
        assert len({answer.tensor("pixel_values").tobytes() for answer in answers}) == 1

    async def test_what_the_bytes_are_to_blame_for_is_every_followers_problem(self, keeping: Inside) -> None:
        broken = picture(12, side=900)[:-4000]
        async with AsyncClient(keeping.sidecar.address) as client:
            outcomes = await asyncio.gather(
                *(client.preprocess("clip", broken) for _ in range(8)), return_exceptions=True
            )
        assert {type(outcome) for outcome in outcomes} == {CorruptMedia}


class TestReplays:
    def test_a_retry_with_its_key_is_told_the_first_reply(self, keeping: Inside, client: Client) -> None:
        first = client.infer("clip", picture(20), idempotency_key="twenty", fresh=True)
        before = finished(keeping)
        again = client.infer("clip", picture(20), idempotency_key="twenty", fresh=True)
        assert (first.replayed, again.replayed) == (False, True)
        assert finished(keeping) == before
        assert again.tensor("batch_rows").tobytes() == first.tensor("batch_rows").tobytes()

    def test_a_key_that_comes_with_another_content_is_refused(self, client: Client) -> None:
        client.preprocess("clip", picture(21), idempotency_key="twenty-one")
        with pytest.raises(InvalidRequest, match="idempotency_key"):
            client.preprocess("clip", picture(22), idempotency_key="twenty-one")

    def test_a_batch_with_a_bad_item_is_told_again_as_it_was(self, client: Client) -> None:
        items = [picture(23), b"nonsense"]
        first = client.preprocess("clip", items, idempotency_key="bad")
        again = client.preprocess("clip", items, idempotency_key="bad")
        assert again.replayed
        assert [type(item.problem) for item in again] == [type(item.problem) for item in first]

    def test_keys_are_their_tenants_own(self, keeping: Inside) -> None:
        with (
            Client(keeping.sidecar.address, tenant="a") as one,
            Client(keeping.sidecar.address, tenant="b") as other,
        ):
            one.preprocess("clip", picture(24), idempotency_key="mine")
            assert not other.preprocess("clip", picture(25), idempotency_key="mine").replayed

    async def test_two_with_one_key_at_once_are_one_call(self, keeping: Inside) -> None:
        before = finished(keeping)
        content = picture(26, side=1200)
        async with AsyncClient(keeping.sidecar.address) as client:
            answers = await asyncio.gather(
                *(client.preprocess("clip", content, idempotency_key="both", fresh=True) for _ in range(4))
            )
        assert finished(keeping) - before == 1
        assert sorted(answer.replayed for answer in answers) == [False, True, True, True]


def test_slots_that_are_kept_are_all_that_is_left_of_calls_that_ended(
    keeping: Inside, client: Client
) -> None:
    client.infer("clip", [picture(30), picture(31), picture(30)])
    now = keeping.arena.statistics()
    assert (now.leased, now.pinned) == (now.kept, 0)
    assert keeping.gate.statistics()[Modality.IMAGE].running == 0

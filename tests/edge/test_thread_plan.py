"""The thread plan over real channels: told with its reasons, moved under load without a request's notice, refused."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import testbed.media
from inference_client import Client, InvalidRequest
from tests.running import Running, running
from tests.serving import calling

PICTURE = Path(testbed.media.__file__).parent / "text.jpg"
CLIP = "clip-vit-base-patch32"


@pytest.fixture(scope="module")
def sidecar() -> Iterator[Running]:
    with running({"clip": CLIP}) as started:
        yield started


@pytest.fixture
def client(sidecar: Running) -> Iterator[Client]:
    with Client(sidecar.address) as made:
        yield made
        made.set_thread_plan(
            dict.fromkeys(("threads.image", "threads.audio", "threads.express", "workers.processes"))
        )


def test_the_plan_has_a_reason_for_every_number_and_what_bounds_it(client: Client) -> None:
    plan = client.thread_plan()
    assert plan["threads.image"] >= 1
    assert all(number.why for number in plan.numbers)
    assert {bound.cores is None for bound in plan.bounds} == {True, False}
    assert plan.changes[-1].why == "the server started"
    assert "threads.image" in str(plan)
    with pytest.raises(KeyError):
        plan["threads.video"]


def test_it_is_moved_under_load_and_no_request_notices(client: Client, sidecar: Running) -> None:
    with calling(sidecar.address, PICTURE):
        for image, processes in ((1, 1), (4, 2), (2, 1), (3, 3), (2, 2)) * 3:
            plan = client.set_thread_plan({"threads.image": image, "workers.processes": processes})
            assert (plan["threads.image"], plan["workers.processes"]) == (image, processes)
            client.preprocess("clip", PICTURE, fresh=True)


def test_what_is_set_is_seen_in_metrics_and_told_as_set(client: Client, sidecar: Running) -> None:
    plan = client.set_thread_plan({"threads.image": 1})
    (number,) = (each for each in plan.numbers if each.name == "threads.image")
    assert number.is_set
    assert plan.changes[0].why == "by hand"
    with urllib.request.urlopen(f"http://{sidecar.app.metrics_address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'sidecar_plan_threads{pool="image"} 1.0' in text
    assert "sidecar_budget_cores" in text


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"threads.image": 4096}, "only wait for each other"),
        ({"workers.processes": 0}, "restart"),
        ({"threads.video": 1}, "threads.image, threads.audio"),
        ({"threads.audio": 1, "workers.processes": 64}, "does nothing"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(
    numbers: dict[str, int], words: str, client: Client
) -> None:
    before = client.thread_plan().numbers
    with pytest.raises(InvalidRequest, match=words):
        client.set_thread_plan(numbers)
    assert client.thread_plan().numbers == before


@pytest.mark.parametrize("number", [-1, 1.5, True])
def test_what_is_no_number_is_not_sent(number: int, client: Client) -> None:
    with pytest.raises(ValueError, match=r"threads\.image is"):
        client.set_thread_plan({"threads.image": number})

"""The catalogue keeps in step with a model server that changes under it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from sidecar.catalogue import Catalogue, ModelConfig, ModelState
from sidecar.errors import ModelMismatch, RecipeError, UnknownModel, UpstreamUnavailable
from sidecar.stages.deliver.triton import TritonConfig, TritonUpstream
from tests.running import CHECKPOINTS
from tests.upstream.scripted import ScriptedServer, scripted

CLIP = ModelConfig(recipe=CHECKPOINTS / "clip-vit-base-patch32")


def describes(server: ScriptedServer, side: int) -> None:
    """Has the server tell of a model that takes pictures of that side."""
    pixels = service_pb2.ModelMetadataResponse.TensorMetadata(
        name="pixel_values", datatype="FP32", shape=[-1, 3, side, side]
    )
    server.metadata = service_pb2.ModelMetadataResponse(name="clip", versions=["1"], inputs=[pixels])
    server.config = service_pb2.ModelConfigResponse(
        config=model_config_pb2.ModelConfig(name="clip", max_batch_size=8)
    )


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted() as started:
        describes(started, 224)
        yield started


@pytest.fixture
async def upstream(server: ScriptedServer) -> AsyncIterator[TritonUpstream]:
    upstream = TritonUpstream(TritonConfig(server.address))
    yield upstream
    await upstream.close()


async def becomes(catalogue: Catalogue, state: ModelState) -> None:
    """Returns when the model is in that state; the test's own timeout bounds it."""
    while catalogue.get("clip").state is not state:  # noqa: ASYNC110 - states are looked at, not announced
        await asyncio.sleep(0.01)


async def test_a_model_that_fits_is_ready(upstream: TritonUpstream) -> None:
    catalogue = Catalogue({"clip": CLIP}, upstream)
    assert isinstance(catalogue.get("clip").problem, UpstreamUnavailable)
    await catalogue.open()
    await catalogue.reached()
    assert catalogue.get("clip").state is ModelState.READY
    await catalogue.close()


async def test_a_model_that_contradicts_its_recipe_stops_the_start(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    describes(server, 336)
    catalogue = Catalogue({"clip": CLIP}, upstream)
    with pytest.raises(ModelMismatch, match="336"):
        await catalogue.open()
    await catalogue.close()


async def test_a_model_that_is_changed_and_mended_is_found_out_both_times(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    catalogue = Catalogue({"clip": CLIP}, upstream)
    await catalogue.open()
    describes(server, 336)
    catalogue.suspect("clip")
    await becomes(catalogue, ModelState.MISMATCHED)
    assert catalogue.get("clip").binding is None
    describes(server, 224)
    await becomes(catalogue, ModelState.READY)
    await catalogue.close()


async def test_a_model_server_that_goes_and_comes_back_is_found_again(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    catalogue = Catalogue({"clip": CLIP}, upstream)
    await catalogue.open()
    server.cut()
    catalogue.suspect("clip")
    await becomes(catalogue, ModelState.UNREACHABLE)
    await server.mend()
    await becomes(catalogue, ModelState.READY)
    await catalogue.close()


async def test_without_models_there_is_nothing_to_wait_for(upstream: TritonUpstream) -> None:
    catalogue = Catalogue({}, upstream)
    await catalogue.open()
    await catalogue.reached()
    await catalogue.close()


def test_an_unknown_model_is_told_which_there_are() -> None:
    with pytest.raises(UnknownModel, match="there are: clip"):
        Catalogue({"clip": CLIP}, None).get("clop")


def test_what_the_operator_chose_reaches_the_recipe() -> None:
    catalogue = Catalogue({"clip": CLIP, "fast": replace(CLIP, mode="fast")}, None)
    recipes = [catalogue.get(name).recipe for name in ("clip", "fast")]
    assert [recipe.exact for recipe in recipes if recipe is not None] == [True, False]


def test_a_recipe_that_cannot_be_followed_names_its_model() -> None:
    with pytest.raises(RecipeError, match="model 'broken'"):
        Catalogue({"broken": ModelConfig(recipe=CHECKPOINTS / "nowhere")}, None)

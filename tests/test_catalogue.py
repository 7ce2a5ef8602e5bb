"""The catalogue keeps in step with a model server that changes under it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from sidecar.catalogue import Catalogue, ModelConfig, ModelState
from sidecar.errors import ModelMismatch, RecipeError, UnknownModel, UpstreamUnavailable
from sidecar.stages.admit.limits import ModelLimits
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


class TestOtherSettings:
    """Settings that are read anew while models are served."""

    async def test_what_is_as_it_was_stays_the_same_object(self, upstream: TritonUpstream) -> None:
        catalogue = Catalogue({"clip": CLIP}, upstream)
        await catalogue.open()
        before = catalogue.get("clip")
        catalogue.serve(await catalogue.reread({"clip": replace(CLIP)}))
        assert catalogue.get("clip") is before
        await catalogue.close()

    async def test_models_come_change_and_go(self, upstream: TritonUpstream) -> None:
        catalogue = Catalogue({"clip": CLIP}, upstream)
        await catalogue.open()
        before = catalogue.get("clip")
        other = ModelConfig(recipe=CLIP.recipe, upstream="clip", max_items=2)
        catalogue.serve(await catalogue.reread({"clip": replace(CLIP, max_items=3), "other": other}))
        clip, added = catalogue.get("clip"), catalogue.get("other")
        assert (clip.config.max_items, clip.state) == (3, ModelState.READY)
        assert clip.recipe is before.recipe  # what is known of a recipe stays known
        assert (added.config, added.state) == (other, ModelState.READY)
        catalogue.serve(await catalogue.reread({"other": other}))
        with pytest.raises(UnknownModel, match="there are: other"):
            catalogue.get("clip")
        assert catalogue.get("other") is added
        await catalogue.close()

    async def test_another_form_is_another_recipe_and_binding(
        self, server: ScriptedServer, upstream: TritonUpstream
    ) -> None:
        catalogue = Catalogue({"clip": CLIP}, upstream)
        await catalogue.open()
        url = service_pb2.ModelMetadataResponse.TensorMetadata(name="image_url", datatype="BYTES", shape=[1])
        server.metadata = service_pb2.ModelMetadataResponse(name="clip", versions=["1"], inputs=[url])
        catalogue.serve(await catalogue.reread({"clip": replace(CLIP, form="media")}))
        clip = catalogue.get("clip")
        assert clip.state is ModelState.READY
        assert clip.binding is not None
        assert clip.recipe is not None
        assert [bound.input.name for bound in clip.binding.media] == ["image_url"]
        assert [output.name for output in clip.recipe.outputs] == [
            bound.output.name for bound in clip.binding.media
        ]
        await catalogue.close()

    async def test_what_is_bound_as_before_is_not_asked_for_again(
        self, server: ScriptedServer, upstream: TritonUpstream
    ) -> None:
        catalogue = Catalogue({"clip": CLIP}, upstream)
        await catalogue.open()
        server.cut()
        limits = ModelLimits(image_pixels=9)
        catalogue.serve(await catalogue.reread({"clip": replace(CLIP, in_flight=7, limits=limits)}))
        clip = catalogue.get("clip")
        assert (clip.state, clip.config.in_flight, clip.config.limits) == (ModelState.READY, 7, limits)
        assert clip.binding is not None
        await catalogue.close()

    async def test_files_that_changed_are_another_recipe(
        self, upstream: TritonUpstream, tmp_path: Path
    ) -> None:
        file = tmp_path / "preprocessor_config.json"
        assert CLIP.recipe is not None
        keys = json.loads((CLIP.recipe / file.name).read_text())
        file.write_text(json.dumps(keys))
        catalogue = Catalogue({"clip": ModelConfig(recipe=tmp_path)}, upstream)
        await catalogue.open()
        before = catalogue.get("clip").recipe
        file.write_text(json.dumps(keys | {"image_mean": [0.5, 0.5, 0.5]}))
        catalogue.serve(await catalogue.reread({"clip": ModelConfig(recipe=tmp_path)}))
        assert catalogue.get("clip").recipe != before
        await catalogue.close()

    @pytest.mark.parametrize("wrong", ["recipe", "model"])
    async def test_what_is_wrong_changes_nothing(
        self, wrong: str, server: ScriptedServer, upstream: TritonUpstream
    ) -> None:
        catalogue = Catalogue({"clip": CLIP}, upstream)
        await catalogue.open()
        before = catalogue.get("clip")
        if wrong == "model":
            describes(server, 336)
        config = CLIP if wrong == "model" else ModelConfig(recipe=CHECKPOINTS / "nowhere")
        with pytest.raises(ModelMismatch if wrong == "model" else RecipeError):
            await catalogue.reread({"clip": CLIP, "new": replace(config, upstream="clip")})
        assert list(catalogue.all()) == [before]
        await catalogue.close()

    async def test_a_model_server_that_is_away_then_is_waited_for(
        self, server: ScriptedServer, upstream: TritonUpstream
    ) -> None:
        catalogue = Catalogue({}, upstream)
        await catalogue.open()
        server.cut()
        catalogue.serve(await catalogue.reread({"clip": CLIP}))
        assert catalogue.get("clip").state is ModelState.UNREACHABLE
        await server.mend()
        await becomes(catalogue, ModelState.READY)
        await catalogue.close()

    async def test_what_the_model_server_tells_meanwhile_is_not_forgotten(
        self, server: ScriptedServer, upstream: TritonUpstream
    ) -> None:
        catalogue = Catalogue({"clip": CLIP}, upstream)
        await catalogue.open()
        models = await catalogue.reread({"clip": CLIP})
        describes(server, 336)
        catalogue.suspect("clip")
        await becomes(catalogue, ModelState.MISMATCHED)
        catalogue.serve(models)
        assert catalogue.get("clip").state is ModelState.MISMATCHED
        await catalogue.close()

    async def test_without_a_model_server_recipes_change_all_the_same(self) -> None:
        catalogue = Catalogue({"clip": CLIP}, None)
        await catalogue.open()
        catalogue.serve(await catalogue.reread({"clip": replace(CLIP, mode="fast")}))
        recipe = catalogue.get("clip").recipe
        assert recipe is not None
        assert not recipe.exact
        await catalogue.close()

"""Holds a recipe against transformers' own processor: every output, in bytes and in floats, and what was foretold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import pytest

from sidecar.media import DataType, ImageInfo, Pixels, TensorSpec
from sidecar.recipes.image import ImageRecipe, Plan
from sidecar.recipes.loader import load_recipe
from sidecar.stages.pack import pack
from testbed.parity import Keys, reference_outputs
from testbed.pictures import pictures
from testbed.torchvision_import import import_torchvision

BACKENDS = ("pil", "torchvision")
# Elements of a picture from which on it is left to the long suites.
_LARGE = 1_000_000


def skip_without(backend: str) -> None:
    """Skips where the judge is not at hand: another PIL than the reference, or no torchvision."""
    if backend == "pil" and PIL.__version__ != "13.0.0":
        pytest.skip(f"PIL {PIL.__version__} does not give the bits of the Pillow 13 wheel")
    if backend == "torchvision":
        try:
            import_torchvision()
        except ImportError as error:
            pytest.skip(f"{error}: scripts/simd.sh installs it")


def recipe_of(keys: Keys, directory: Path, backend: str, **files: Keys) -> ImageRecipe[Plan]:
    """The recipe of a directory with these keys, and with further files by name."""
    for name, content in {"preprocessor_config": keys, **files}.items():
        (directory / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    recipe = load_recipe(directory, reference=backend)
    assert isinstance(recipe, ImageRecipe)
    return recipe


def made(
    recipe: ImageRecipe[Plan], picture: npt.NDArray[np.uint8], data_types: Mapping[str, DataType]
) -> dict[str, npt.NDArray[Any]]:
    """What the recipe makes of a picture, by output; shapes and bytes are those foretold."""
    height, width, _ = picture.shape
    info = ImageInfo("png", 1, width, height, "RGB")
    tensors = pack(recipe.transform(Pixels(picture)), data_types)
    assert recipe.output_bytes(info, data_types) == {tensor.name: tensor.nbytes for tensor in tensors}
    for spec, tensor in zip(recipe.outputs, tensors, strict=True):
        assert spec.name == tensor.name
        assert spec.admits(tensor.shape)
        assert recipe.plan((height, width)).shapes[spec.name] == tensor.shape
    return {
        tensor.name: np.frombuffer(tensor.data, tensor.data_type.storage).reshape(tensor.shape)
        for tensor in tensors
    }


def agree(
    recipe: ImageRecipe[Plan],
    keys: Keys,
    backend: str,
    picture: npt.NDArray[np.uint8],
    bare: Mapping[str, object] | None = None,
) -> None:
    """Asserts that every output is the reference's, to the bit: as floats, and as bytes that nothing is done to.

    `bare` are the switches by which the reference leaves bytes; None: do_rescale and do_normalize off.
    """
    natural = {spec.name: spec.data_type for spec in recipe.outputs}
    expected = reference_outputs(keys, backend, picture)
    found = made(recipe, picture, natural)
    for spec in recipe.outputs:
        _same(spec, expected[spec.name], found[spec.name])
    switches = {"do_rescale": False, "do_normalize": False} if bare is None else bare
    pixels = recipe.outputs[0]
    if recipe.accepts(pixels.name, DataType.UINT8):
        expected = reference_outputs(keys, backend, picture, **switches)
        found = made(recipe, picture, natural | {pixels.name: DataType.UINT8})
        _same(pixels, expected[pixels.name], found[pixels.name])


def agree_on(
    keys: Keys,
    backend: str,
    directory: Path,
    shown: Iterable[npt.NDArray[np.uint8]],
) -> None:
    """Asserts that the recipe of these keys promises the reference's bits, and has them for every picture shown.

    Skips where the judge is not at hand.
    """
    skip_without(backend)
    recipe = recipe_of(keys, directory, backend)
    assert recipe.exact
    for picture in shown:
        agree(recipe, keys, backend, picture)


def small() -> Iterator[npt.NDArray[np.uint8]]:
    """The testbed's pictures for every run."""
    return (picture for _, picture in pictures() if picture.size < _LARGE)


def large() -> Iterator[npt.NDArray[np.uint8]]:
    """Those for the long suites."""
    return (picture for _, picture in pictures() if picture.size >= _LARGE)


def every() -> Iterator[npt.NDArray[np.uint8]]:
    """All of them."""
    return (picture for _, picture in pictures())


def _same(spec: TensorSpec, expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> None:
    """A batch of one against an item."""
    one = expected if spec.rows else expected[0]
    assert one.shape == found.shape, spec.name
    assert np.array_equal(one, found), f"{spec.name}: {np.count_nonzero(one != found)} elements differ"

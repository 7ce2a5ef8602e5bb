from collections.abc import Mapping, Sequence

import pytest

from sidecar.errors import ModelMismatch
from sidecar.media import DataType, TensorSpec
from sidecar.stages.deliver.bindings import Binding, Grouping, bind
from sidecar.stages.deliver.upstream import Signature

FP32, FP16, UINT8, BYTES = DataType.FP32, DataType.FP16, DataType.UINT8, DataType.BYTES

PIXELS = TensorSpec("pixel_values", FP32, (3, 224, 224))
MASK = TensorSpec("attention_mask", DataType.INT64, (-1,), optional=True)
WAVE = TensorSpec("input_values", FP32, (-1,))
PROMPT = TensorSpec("prompt", BYTES, (-1,))


def spec(name: str, *shape: int, of: DataType = FP32) -> TensorSpec:
    return TensorSpec(name, of, shape)


def model(*inputs: TensorSpec, batch: int = 8) -> Signature:
    return Signature("clip", "1", inputs, (spec("out", 4),), batch, decoupled=False)


def accepts(_: str, data_type: DataType) -> bool:
    return data_type in {FP32, FP16, DataType.INT64}


def binding(
    outputs: Sequence[TensorSpec],
    signature: Signature,
    *,
    renames: Mapping[str, str] | None = None,
    grouping: Grouping | None = None,
) -> Binding:
    return bind(outputs, accepts, signature, renames=renames or {}, grouping=grouping)


def test_the_same_name_binds_and_the_rest_is_the_caller_s() -> None:
    bound = binding([PIXELS], model(PROMPT, spec("pixel_values", 3, -1, -1, of=FP16)))
    assert bound.made == ("pixel_values",)
    assert bound.media[0].input.data_type is FP16
    assert bound.plain == (PROMPT,)
    assert bound.grouping is Grouping.EACH
    assert bound.needs_media


def test_the_name_decides_even_where_another_input_fits_better() -> None:
    signature = model(spec("other", 3, 224, 224), spec("pixel_values", 3, -1, -1))
    assert binding([PIXELS], signature).made == ("pixel_values",)


def test_a_rename_binds_to_the_model_s_name() -> None:
    signature = model(spec("a", 3, 224, 224), spec("b", 3, 224, 224))
    assert binding([PIXELS], signature, renames={"pixel_values": "b"}).made == ("b",)


def test_the_only_output_binds_to_the_only_input_that_admits_it() -> None:
    signature = model(PROMPT, spec("image", 3, 224, 224), spec("scale", 1))
    assert binding([PIXELS], signature).made == ("image",)


def test_an_optional_output_without_a_counterpart_is_left_out() -> None:
    assert binding([WAVE, MASK], model(spec("input_values", -1))).made == ("input_values",)


def test_a_recipe_without_outputs_leaves_every_input_to_the_caller() -> None:
    bound = binding([], model(PROMPT), grouping=Grouping.EACH)
    assert (bound.media, bound.plain, bound.grouping) == ((), (PROMPT,), Grouping.TOGETHER)
    assert not bound.needs_media


@pytest.mark.parametrize(
    ("shape", "batch", "asked", "expected"),
    [
        ((3, 224, 224), 8, None, Grouping.EACH),
        ((3, 224, 224), 0, None, Grouping.EACH),
        ((3, 224, 224), 0, Grouping.EACH, Grouping.EACH),
        ((-1, 3, 224, 224), 0, None, Grouping.TOGETHER),
        ((-1, -1, -1, -1), 8, None, Grouping.TOGETHER),
        ((-1, 3, 224, 224), 0, Grouping.EACH, Grouping.EACH),
        ((1, 3, 224, 224), 0, None, Grouping.EACH),
    ],
)
def test_the_model_s_axes_decide_the_grouping_unless_it_is_asked_for(
    shape: tuple[int, ...], batch: int, asked: Grouping | None, expected: Grouping
) -> None:
    signature = model(spec("pixel_values", *shape), batch=batch)
    assert binding([PIXELS], signature, grouping=asked).grouping is expected


@pytest.mark.parametrize(
    ("ours", "theirs", "agrees"),
    [
        ((3, 224, 224), (3, 224, 224), True),
        ((3, 224, 224), (3, -1, -1), True),
        ((3, 224, 224), (3, 336, 336), False),
        ((-1,), (-1,), True),
        ((-1,), (16000,), False),
        ((80, 3000), (3000, 80), False),
        ((3, 224, 224), (4, 3, 224, 224), False),
        ((3, 224, 224), (-1, -1, 3, 224, 224), False),
        ((3, 224, 224), (224, 224), False),
    ],
)
def test_a_fixed_axis_of_the_model_must_be_the_recipe_s(
    ours: tuple[int, ...], theirs: tuple[int, ...], agrees: bool
) -> None:
    outputs, signature = [spec("pixel_values", *ours)], model(spec("pixel_values", *theirs), batch=0)
    if agrees:
        assert binding(outputs, signature).made == ("pixel_values",)
        return
    with pytest.raises(ModelMismatch):
        binding(outputs, signature)


@pytest.mark.parametrize(
    ("outputs", "signature", "renames", "grouping", "says"),
    [
        pytest.param(
            [PIXELS],
            model(spec("pixel_values", 3, 336, 336)),
            {},
            None,
            [
                "recipe output 'pixel_values' (FP32 [3, 224, 224])",
                "input 'pixel_values' (FP32 [3, 336, 336]) of model 'clip'",
                "choose the recipe",
            ],
            id="shape",
        ),
        pytest.param(
            [PIXELS],
            model(spec("pixel_values", 3, 224, 224, of=DataType.INT8)),
            {},
            None,
            ["INT8 [3, 224, 224]", "cannot be packed as INT8"],
            id="type",
        ),
        pytest.param(
            [PIXELS],
            model(spec("a", 3, 224, 224), spec("b", 3, -1, -1)),
            {},
            None,
            ["'a' (FP32 [3, 224, 224]), 'b' (FP32 [3, -1, -1])", "2 of its inputs would fit", "`renames`"],
            id="two would fit",
        ),
        pytest.param(
            [PIXELS], model(PROMPT), {}, None, ["'prompt' (BYTES [-1])", "none of its inputs"], id="none fits"
        ),
        pytest.param([PIXELS], model(), {}, None, ["which takes nothing"], id="takes nothing"),
        pytest.param(
            [PIXELS, spec("image_sizes", 2)],
            model(spec("image", 3, 224, 224)),
            {},
            None,
            ["recipe output 'pixel_values'", "none of its inputs has that name", "`renames`"],
            id="two outputs are not guessed at",
        ),
        pytest.param(
            [PIXELS],
            model(spec("pixel_values", 3, 224, 224)),
            {"pixels": "pixel_values"},
            None,
            ["'pixels', which the recipe does not make", "'pixel_values' (FP32 [3, 224, 224])"],
            id="rename of nothing",
        ),
        pytest.param(
            [PIXELS],
            model(spec("pixel_values", 3, 224, 224)),
            {"pixel_values": "image"},
            None,
            ["'image', which model 'clip' does not take", "'pixel_values'"],
            id="rename to nothing",
        ),
        pytest.param(
            [PIXELS, spec("thumbnail", 3, 224, 224)],
            model(spec("pixel_values", 3, 224, 224)),
            {"thumbnail": "pixel_values"},
            None,
            ["'pixel_values'", "'thumbnail'", "both feed"],
            id="two outputs, one input",
        ),
        pytest.param(
            [PIXELS],
            model(spec("pixel_values", 3, 224, 224)),
            {},
            Grouping.TOGETHER,
            ["`grouping` is together", "FP32 [3, 224, 224]", "set `grouping` to each"],
            id="no axis for the items",
        ),
    ],
)
def test_a_mismatch_names_both_sides_and_what_to_set(
    outputs: list[TensorSpec],
    signature: Signature,
    renames: dict[str, str],
    grouping: Grouping | None,
    says: list[str],
) -> None:
    with pytest.raises(ModelMismatch) as mismatch:
        binding(outputs, signature, renames=renames, grouping=grouping)
    assert mismatch.value.facts["model"] == "clip"
    assert [part for part in says if part not in mismatch.value.message] == []


PATCHES = TensorSpec("pixel_values", FP32, (-1, 12), rows=True)
GRID = TensorSpec("image_grid_thw", DataType.INT64, (1, 3), rows=True)


@pytest.mark.parametrize(
    ("patches", "grid", "batch", "asked", "grouping"),
    [
        ((-1, 12), (-1, 3), 0, None, Grouping.TOGETHER),
        ((-1, 12), (-1, 3), 0, Grouping.EACH, Grouping.EACH),
        ((-1, 12), (1, 3), 0, None, Grouping.EACH),
        ((-1, 12), (-1, 3), 8, None, Grouping.EACH),
        ((-1, 12), (-1, 3), 8, Grouping.TOGETHER, Grouping.TOGETHER),
        ((-1, -1, 12), (-1, 1, 3), 0, None, Grouping.TOGETHER),
    ],
)
def test_outputs_of_many_rows_an_item_are_taken_together_where_the_model_does_not_batch(
    patches: tuple[int, ...],
    grid: tuple[int, ...],
    batch: int,
    asked: Grouping | None,
    grouping: Grouping,
) -> None:
    signature = model(
        spec("pixel_values", *patches), spec("image_grid_thw", *grid, of=DataType.INT64), batch=batch
    )
    assert binding([PATCHES, GRID], signature, grouping=asked).grouping is grouping


def test_rows_that_the_model_fixes_cannot_be_taken_together() -> None:
    signature = model(spec("pixel_values", -1, 12), spec("image_grid_thw", 1, 3, of=DataType.INT64), batch=0)
    with pytest.raises(ModelMismatch, match="no axis of varying length"):
        binding([PATCHES, GRID], signature, grouping=Grouping.TOGETHER)


@pytest.mark.parametrize("pixels", [(-1, -1, -1, -1), (1, 1, -1, 12), (-1, 1, -1, 12)])
def test_rows_may_lie_behind_axes_of_length_one_and_an_only_row_without_its_axis(
    pixels: tuple[int, ...],
) -> None:
    signature = model(spec("pixel_values", *pixels), spec("image_grid_thw", 3, of=DataType.INT64), batch=4)
    bound = binding([PATCHES, GRID], signature)
    assert bound.grouping is Grouping.EACH
    assert bound.media[0].laid((5, 12)) == (1, 1, 5, 12)
    assert bound.media[1].laid((1, 3)) == (3,)


@pytest.mark.parametrize("pixels", [(2, 1, -1, 12), (-1, -1, -1, 13), (12,)])
def test_axes_in_front_that_are_not_of_length_one_and_rows_that_are_many_are_a_mismatch(
    pixels: tuple[int, ...],
) -> None:
    signature = model(spec("pixel_values", *pixels), spec("image_grid_thw", 3, of=DataType.INT64))
    with pytest.raises(ModelMismatch, match="pixel_values"):
        binding([PATCHES, GRID], signature)

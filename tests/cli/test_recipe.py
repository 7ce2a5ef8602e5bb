"""`sidecar recipe`: what `show` tells, and that what `export` writes makes the very values that pack makes."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2

from inference_client import Client
from sidecar.cli.main import run
from sidecar.errors import RecipeError, SettingsError
from sidecar.media import Blank, DataType, Frames, Looked, Modality, Pixels, Shaped, TensorSpec
from sidecar.recipes.export import Port, lookups, onnx_model
from sidecar.recipes.loader import load_recipe
from sidecar.recipes.recipe import Recipe
from sidecar.stages.pack import pack
from testbed.checksum import crc32
from testbed.install import MODELS_ENVIRONMENT, PROJECT, why_not
from testbed.triton import MODELS, Triton
from tests.running import running

CHECKPOINTS = PROJECT / "testbed" / "checkpoints"
CLIP, WHISPER = CHECKPOINTS / "clip-vit-base-patch32", CHECKPOINTS / "whisper-tiny"
QWEN = CHECKPOINTS / "qwen2-vl-2b-instruct"
MEDIA = PROJECT / "testbed" / "media"

Array = npt.NDArray[Any]
Said = pytest.CaptureFixture[str]


def model_dir(directory: Path, **keys: object) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "preprocessor_config.json").write_text(json.dumps(keys), encoding="utf-8")
    return directory


def noise(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)


def shown(said: Said, *arguments: str | Path) -> dict[str, Any]:
    assert run(["recipe", "show", *map(str, arguments), "--json"], {}) == 0
    told: dict[str, Any] = json.loads(said.readouterr().out)
    return told


class TestShow:
    def test_the_text_tells_file_class_reference_steps_outputs_and_a_picture(self, capsys: Said) -> None:
        assert run(["recipe", "show", str(CLIP), "--size", "1920x1080"], {}) == 0
        said, _, cost = capsys.readouterr().out.partition("  predicted cost: ")
        assert re.fullmatch(r"\d+\.\d ms of one core, 6220800 bytes decoded\n", cost)
        assert said == (
            f"CLIPFeatureExtractor, of {CLIP}/preprocessor_config.json\n"
            "reference: pil; its bits are met\n"
            "mode: exact\n"
            "steps:\n"
            "  1. RGB; a colour declared transparent becomes white\n"
            "  2. resize (bicubic) shortest edge to 224\n"
            "  3. centre crop to 224x224 (height x width), zeros around smaller pictures\n"
            "  4. rescale: times 0.00392156862745098\n"
            "  5. normalise: minus [0.48145466, 0.4578275, 0.40821073], over [0.26862954, 0.26130258, 0.27577711]\n"
            "  6. as transformers' pil backend does, to the bit\n"
            "outputs:\n"
            "  pixel_values: FP32 [3, 224, 224]; can be UINT8, FP16, FP32, BF16\n"
            "keys ignored, as the processor itself does: none\n"
            "a jpeg of 1920x1080 (width x height, upright):\n"
            "  resized to 398x224\n"
            "  pixel_values: [3, 224, 224], 602112 bytes\n"
            "  placeholder tokens: none, or not told by the files\n"
        )

    def test_rows_and_tokens_are_told_of_patches(self, capsys: Said, tmp_path: Path) -> None:
        directory = model_dir(tmp_path, image_processor_type="Qwen2VLImageProcessor")
        assert run(["recipe", "show", str(directory), "--size", "56x84"], {}) == 0
        said = capsys.readouterr().out
        assert "pixel_values: FP32 [-1, 1176], rows of all items one behind another; can be" in said
        assert "  pixel_values: [24, 1176], 112896 bytes\n  image_grid_thw: [1, 3], 24 bytes\n" in said
        assert "  placeholder tokens: 6\n" in said

    def test_json_says_the_same(self, capsys: Said, tmp_path: Path) -> None:
        directory = model_dir(
            tmp_path, image_processor_type="Qwen2VLImageProcessor", colour="blue", min_pixels=3136
        )
        told = shown(capsys, directory, "--size", "84x56")
        assert told["source"] == f"{directory}/preprocessor_config.json"
        assert (told["processor"], told["modality"]) == ("Qwen2VLImageProcessor", "image")
        assert (told["reference"], told["exact"], told["mode"]) == ("pil", True, "exact")
        assert told["ignored"] == ["colour"]
        assert not any(step == "colour" or "ignored" in step for step in told["steps"])
        assert told["outputs"][1] == {
            "name": "image_grid_thw",
            "data_type": "INT64",
            "shape": [1, 3],
            "rows": True,
            "optional": False,
            "accepts": ["INT32", "INT64"],
        }
        predicted = told["picture"].pop("predicted")
        assert (predicted["decoded_bytes"], 0 < predicted["cpu_ms"] < 10) == (14112, True)
        assert told["picture"] == {
            "format": "jpeg",
            "width": 84,
            "height": 56,
            "resized": [[56, 84]],
            "outputs": [
                {"name": "pixel_values", "shape": [24, 1176], "bytes": 112896},
                {"name": "image_grid_thw", "shape": [1, 3], "bytes": 24},
            ],
            "tokens": 6,
        }

    @pytest.mark.parametrize("nested", [True, False])
    def test_a_processor_for_video_is_named_and_said_not_to_be_served(
        self, capsys: Said, tmp_path: Path, *, nested: bool
    ) -> None:
        keys = {"video_processor_type": "Qwen2VLVideoProcessor", "fps": 2}
        files: dict[str, object] = {"preprocessor_config": {"image_processor_type": "Qwen2VLImageProcessor"}}
        files |= (
            {"processor_config": {"video_processor": keys}} if nested else {"video_preprocessor_config": keys}
        )
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        assert run(["recipe", "show", str(tmp_path)], {}) == 0
        assert "for video: Qwen2VLVideoProcessor, which is not served yet\n" in capsys.readouterr().out

    def test_ignored_keys_are_listed_for_people_too(self, capsys: Said, tmp_path: Path) -> None:
        directory = model_dir(tmp_path, image_processor_type="ViTImageProcessor", colour="blue", age=3)
        assert run(["recipe", "show", str(directory)], {}) == 0
        said = capsys.readouterr().out
        assert said.endswith("keys ignored, as the processor itself does: age, colour\n")
        assert said.count("colour,") + said.count("colour\n") == 1

    def test_a_picture_is_told_of_by_its_header_and_upright(self, capsys: Said, tmp_path: Path) -> None:
        file, sideways = tmp_path / "a.png", Image.Exif()
        sideways[0x0112] = 6
        Image.fromarray(noise(30, 50)).save(file, exif=sideways)
        picture = shown(capsys, CLIP, "--image", file)["picture"]
        assert (picture["format"], picture["width"], picture["height"]) == ("png", 30, 50)
        assert picture["resized"] == [[373, 224]]

    def test_the_smaller_decode_of_the_fast_mode_is_cheaper_and_not_exact(self, capsys: Said) -> None:
        exact, fast = (
            shown(capsys, CLIP, "--size", "4000x3000", "--mode", mode) for mode in ("exact", "fast")
        )
        assert (exact["exact"], fast["exact"], fast["mode"]) == (True, False, "fast")
        assert fast["picture"]["predicted"]["cpu_ms"] < exact["picture"]["predicted"]["cpu_ms"]

    def test_the_reference_is_a_choice(self, capsys: Said) -> None:
        assert shown(capsys, CLIP, "--reference", "torchvision")["reference"] == "torchvision"

    def test_sound_is_told_of_too(self, capsys: Said) -> None:
        told = shown(capsys, WHISPER)
        assert (told["modality"], told["reference"], told["exact"]) == ("audio", "numpy", False)
        assert "picture" not in told

    def test_the_modality_decides_between_two_processors(self, capsys: Said, tmp_path: Path) -> None:
        nested = {
            "image_processor": {"image_processor_type": "CLIPImageProcessor"},
            "feature_extractor": {"feature_extractor_type": "WhisperFeatureExtractor"},
        }
        (tmp_path / "processor_config.json").write_text(json.dumps(nested))
        assert run(["recipe", "show", str(tmp_path)], {}) == 2
        assert "say which by `modality`" in capsys.readouterr().err
        told = shown(capsys, tmp_path, "--modality", "audio")
        assert told["source"] == f"{tmp_path}/processor_config.json: feature_extractor"
        assert told["processor"] == "WhisperFeatureExtractor"

    def test_files_that_cannot_be_followed_have_status_2_and_one_line(
        self, capsys: Said, tmp_path: Path
    ) -> None:
        directory = model_dir(tmp_path, image_processor_type="CLIPImageProcessor", resample=9)
        assert run(["recipe", "show", str(directory)], {}) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"sidecar: {directory}/preprocessor_config.json: `resample` is 9")

    @pytest.mark.parametrize(
        ("file", "words", "status"),
        [
            (MEDIA / "speech.wav", "is a sound", 2),
            (MEDIA / "nowhere.png", "cannot be read", 2),
            (Path(__file__), "sidecar: ", 1),
        ],
    )
    def test_what_is_no_picture_is_refused(self, file: Path, words: str, status: int, capsys: Said) -> None:
        assert run(["recipe", "show", str(CLIP), "--image", str(file)], {}) == status
        out, err = capsys.readouterr()
        assert out == ""
        assert str(file) in err
        assert words in err

    def test_a_size_that_the_processor_refuses_has_status_1(self, capsys: Said, tmp_path: Path) -> None:
        directory = model_dir(tmp_path, image_processor_type="Qwen2VLImageProcessor")
        assert run(["recipe", "show", str(directory), "--size", "1x1000"], {}) == 1
        assert capsys.readouterr().err.startswith("sidecar: size 1x1000: the picture is 1x1000")

    def test_a_recipe_for_sound_takes_no_pictures(self, capsys: Said) -> None:
        assert run(["recipe", "show", str(WHISPER), "--size", "10x10"], {}) == 2
        assert "takes no pictures" in capsys.readouterr().err

    @pytest.mark.parametrize("size", ["", "10", "0x10", "10x", "10x10x10", "-1x5", "axb", "1e3x4"])
    def test_what_is_no_size_has_status_2(self, size: str, capsys: Said) -> None:
        with pytest.raises(SystemExit) as ended:
            run(["recipe", "show", str(CLIP), f"--size={size}"], {})
        assert ended.value.code == 2
        assert "such as 1920x1080" in capsys.readouterr().err


# Runs a model on arrays: python - MODEL IN.npz OUT.npz
ONNXRUNTIME = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
made = session.run(None, dict(numpy.load(sys.argv[2])))
numpy.savez(sys.argv[3], **dict(zip([each.name for each in session.get_outputs()], made)))
"""

Infer = Callable[[bytes, Mapping[str, Array]], dict[str, Array]]


@pytest.fixture
def infer(tmp_path: Path) -> Infer:
    """What onnxruntime makes of arrays with a model; in the models' own interpreter, which has it."""
    python = MODELS_ENVIRONMENT / "bin" / "python"
    if not python.exists():
        pytest.skip("onnxruntime is not here: run `make testbed`")

    def infer(model: bytes, given: Mapping[str, Array]) -> dict[str, Array]:
        places = [tmp_path / name for name in ("model.onnx", "in.npz", "out.npz")]
        places[0].write_bytes(model)
        np.savez(places[1], allow_pickle=False, **given)
        subprocess.run(
            [python, "-c", ONNXRUNTIME, *places], check=True, timeout=60, env={"ORT_DISABLE_TELEMETRY": "1"}
        )
        return dict(np.load(places[2]))

    return infer


def packed(recipe: Recipe, picture: npt.NDArray[np.uint8], data_type: DataType) -> Array:
    """The recipe's first output."""
    (tensor,) = pack(recipe.transform(Pixels(picture))[:1], {recipe.outputs[0].name: data_type})
    return np.frombuffer(tensor.data, data_type.storage).reshape(tensor.shape)


def bits(values: Array) -> Array:
    return values.view(f"u{values.itemsize}")


class TestValues:
    """The ONNX model, run by onnxruntime, against what pack makes of the same pixels: equal to the bit."""

    @pytest.mark.parametrize("reference", ["pil", "torchvision"])
    @pytest.mark.parametrize("data_type", [DataType.FP32, DataType.FP16])
    @pytest.mark.parametrize(
        "keys",
        [
            {},
            {
                "image_mean": [0.48145466, 0.4578275, 0.40821073],
                "image_std": [0.26862954, 0.26130258, 0.27577711],
            },
            {"do_rescale": False, "image_mean": [124, 116.5, 104], "image_std": [1e-3, 57, 57.3]},
            {"do_normalize": False},
        ],
        ids=["halves", "clip's", "infinite as FP16", "rescale only"],
    )
    def test_every_byte_of_every_channel_has_the_table_s_bits(
        self, keys: dict[str, object], data_type: DataType, reference: str, infer: Infer, tmp_path: Path
    ) -> None:
        directory = model_dir(tmp_path, image_processor_type="ViTImageProcessor", do_resize=False, **keys)
        recipe = load_recipe(directory, reference=reference)
        picture = noise(61, 97)
        assert all(np.unique(picture[:, :, channel]).size == 256 for channel in range(3))
        (lookup,) = lookups(recipe)
        model = onnx_model([Port(lookup, (3, -1, -1), data_type)], "", batches=False)
        (made,) = infer(model, {"pixel_values": packed(recipe, picture, DataType.UINT8)}).values()
        expected = packed(recipe, picture, data_type)
        assert made.dtype == expected.dtype
        np.testing.assert_array_equal(bits(made), bits(expected))

    @pytest.mark.parametrize("data_type", [DataType.FP32, DataType.FP16])
    def test_patches_have_their_channels_inside_the_row(self, data_type: DataType, infer: Infer) -> None:
        recipe, picture = load_recipe(QWEN), noise(112, 168)
        (lookup,) = lookups(recipe)
        assert lookup.offsets.tolist() == [0] * 392 + [256] * 392 + [512] * 392
        model = onnx_model([Port(lookup, lookup.output.shape, data_type)], "", batches=False)
        (made,) = infer(model, {"pixel_values": packed(recipe, picture, DataType.UINT8)}).values()
        np.testing.assert_array_equal(bits(made), bits(packed(recipe, picture, data_type)))

    def test_a_batch_is_in_front_of_everything(self, infer: Infer) -> None:
        recipe = load_recipe(CLIP)
        (lookup,) = lookups(recipe)
        pictures = noise(300, 300), noise(230, 500)
        model = onnx_model([Port(lookup, (3, 224, 224), DataType.FP32)], "", batches=True)
        rows = np.stack([packed(recipe, picture, DataType.UINT8) for picture in pictures])
        (made,) = infer(model, {"pixel_values": rows}).values()
        expected = np.stack([packed(recipe, picture, DataType.FP32) for picture in pictures])
        np.testing.assert_array_equal(bits(made), bits(expected))

    def test_the_file_is_one_that_old_readers_take(self) -> None:
        (lookup,) = lookups(load_recipe(CLIP))
        model = onnx.load_from_string(
            onnx_model([Port(lookup, (3, -1, -1), DataType.FP32)], "says", batches=True)
        )
        assert (model.ir_version, model.opset_import[0].version, model.doc_string) == (7, 13, "says")
        assert [node.op_type for node in model.graph.node] == ["Cast", "Add", "Gather"]


TABLE = np.arange(768, dtype=np.float32).reshape(3, 256)
SPEC = TensorSpec("pixel_values", DataType.FP32, (-1, 12))


@dataclass(frozen=True)
class Laid:
    """A recipe that lays pixels out as it is told, for layouts whose families are tested elsewhere."""

    lay: Callable[[npt.NDArray[np.uint8]], Shaped]
    spec: TensorSpec = SPEC
    processor: str = "AnImageProcessor"
    modality: Modality = Modality.IMAGE
    reference: str = "pil"
    exact: bool = True
    steps: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (self.spec,)

    def accepts(self, _output: str, _data_type: DataType) -> bool:
        return True

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        assert isinstance(frames, Pixels)
        return (self.lay(frames.array),)

    decode_target = tokens = output_bytes = None


def offsets(laid: Laid) -> list[Any]:
    (lookup,) = lookups(laid)  # type: ignore[arg-type] # what is not asked for is not there
    found: list[Any] = lookup.offsets.tolist()
    return found


class TestLayouts:
    def test_pixels_beside_their_channels_in_a_row(self) -> None:
        def lay(pixels: npt.NDArray[np.uint8]) -> Shaped:
            view = pixels.reshape(-1, 4, 3)
            return Shaped("pixel_values", (len(view), 12), (Looked(view, 2, TABLE),))

        assert offsets(Laid(lay)) == [0, 256, 512] * 4

    def test_tiles_and_a_thumbnail_in_parts(self) -> None:
        def lay(pixels: npt.NDArray[np.uint8]) -> Shaped:
            tiles = pixels.reshape(-1, 4, 4, 3).transpose(0, 3, 1, 2)
            parts = (Looked(tiles, 1, TABLE), Looked(tiles[:1], 1, TABLE))
            return Shaped("pixel_values", (len(tiles) + 1, 3, 4, 4), parts)

        assert offsets(Laid(lay, TensorSpec("pixel_values", DataType.FP32, (-1, 3, 4, 4)))) == [
            [[0]],
            [[256]],
            [[512]],
        ]

    def test_a_part_a_channel_with_its_own_row_of_the_table(self) -> None:
        def lay(pixels: npt.NDArray[np.uint8]) -> Shaped:
            strips = pixels.reshape(-1, 1, 3).transpose(2, 1, 0)
            parts = tuple(
                Looked(strips[channel : channel + 1], 0, TABLE[channel : channel + 1]) for channel in range(3)
            )
            return Shaped("pixel_values", strips.shape, parts)

        assert offsets(Laid(lay, TensorSpec("pixel_values", DataType.FP32, (3, 1, -1)))) == [
            [[0]],
            [[256]],
            [[512]],
        ]

    def test_channels_of_the_same_values_share_them(self) -> None:
        (lookup,) = lookups(load_recipe(CHECKPOINTS / "siglip-base-patch16-224"))
        assert (lookup.offsets.tolist(), lookup.table.shape) == (0, (256,))

    def refused(self, lay: Callable[[npt.NDArray[np.uint8]], Shaped], spec: TensorSpec = SPEC) -> None:
        with pytest.raises(RecipeError, match="do not follow from each byte and its place"):
            offsets(Laid(lay, spec))

    def test_elements_of_nothing_are_refused(self) -> None:
        def lay(pixels: npt.NDArray[np.uint8]) -> Shaped:
            view = pixels.reshape(-1, 4, 3)
            return Shaped("pixel_values", (len(view) + 1, 12), (Looked(view, 2, TABLE), Blank(12)))

        self.refused(lay)

    def test_values_that_are_no_bytes_are_refused(self) -> None:
        self.refused(lambda pixels: Shaped.of("pixel_values", pixels.reshape(-1, 12)))

    def test_a_table_a_part_is_refused(self) -> None:
        def lay(pixels: npt.NDArray[np.uint8]) -> Shaped:
            view = pixels.reshape(-1, 4, 3)
            parts = Looked(view, 2, TABLE), Looked(view, 2, TABLE + 1)
            return Shaped("pixel_values", (2 * len(view), 12), parts)

        self.refused(lay)

    def test_channels_along_an_axis_of_no_fixed_length_are_refused(self) -> None:
        def lay(pixels: npt.NDArray[np.uint8]) -> Shaped:
            view = pixels.reshape(-1, 4, 3)
            return Shaped("pixel_values", (3 * len(view), 4), (Looked(view.transpose(2, 0, 1), 0, TABLE),))

        self.refused(lay, TensorSpec("pixel_values", DataType.FP32, (-1, 4)))

    def test_channels_that_move_with_the_picture_are_refused(self) -> None:
        def lay(pixels: npt.NDArray[np.uint8]) -> Shaped:
            axis = 2 if pixels.shape[0] < pixels.shape[1] else 1
            view = pixels.reshape(-1, 4, 3) if axis == 2 else pixels.reshape(-1, 4, 3).transpose(0, 2, 1)
            return Shaped("pixel_values", (len(view), 12), (Looked(view, axis, TABLE),))

        self.refused(lay)

    def test_sound_has_nothing_to_look_up(self) -> None:
        with pytest.raises(RecipeError, match="no output can be packed as UINT8"):
            lookups(load_recipe(WHISPER))

    def test_a_recipe_that_refuses_the_pictures_it_is_tried_with_says_so(self, tmp_path: Path) -> None:
        directory = model_dir(
            tmp_path, image_processor_type="Qwen2VLImageProcessor", do_resize=False, patch_size=13
        )
        with pytest.raises(RecipeError, match="cannot be read off a picture of 2016x1344: the picture is"):
            lookups(load_recipe(directory))


def test_without_the_package_onnx_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SettingsError, match="pip install onnx, or"):
        onnx_model([], "", batches=False)


def config_of(directory: Path) -> Any:
    return text_format.Parse((directory / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def sides(entries: Any) -> list[tuple[str, str, list[int]]]:
    return [
        (entry.name, model_config_pb2.DataType.Name(entry.data_type), list(entry.dims)) for entry in entries
    ]


def exported(*arguments: str | Path) -> int:
    return run(["recipe", "export", *map(str, arguments)], {})


def declaring(data_type: str, dims: list[int], output: str = "y") -> str:
    """A configuration whose one input is called image."""
    return (
        f'max_batch_size: 4 input [{{ name: "image" data_type: {data_type} dims: {dims} }}]'
        f' output [{{ name: "{output}" data_type: TYPE_FP32 dims: [ 1 ] }}]'
    )


class TestExport:
    @pytest.mark.parametrize(
        ("flags", "batch", "side"),
        [
            ("", 0, ("TYPE_FP32", [-1, 3, 224, 224])),
            ("--max-batch-size 8 --data-type FP16", 8, ("TYPE_FP16", [3, 224, 224])),
        ],
    )
    def test_the_model_alone(
        self, flags: str, batch: int, side: tuple[str, list[int]], tmp_path: Path, capsys: Said
    ) -> None:
        assert exported(CLIP, "--triton", tmp_path / "repository", *flags.split()) == 0
        data_type, dims = side
        directory = tmp_path / "repository" / "clip-vit-base-patch32_normalizer"
        assert capsys.readouterr().out == f"wrote {directory}\n"
        config = config_of(directory)
        assert (config.name, config.platform, config.max_batch_size) == (
            directory.name,
            "onnxruntime_onnx",
            batch,
        )
        assert sides(config.input) == [("pixel_values", "TYPE_UINT8", dims)]
        assert sides(config.output) == [("pixel_values_normalized", data_type, dims)]
        (group,) = config.instance_group
        assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_AUTO
        assert config.HasField("dynamic_batching") == (batch > 0)
        model = onnx.load(directory / "1" / "model.onnx")
        (given,) = model.graph.input
        axes = [axis.dim_value or -1 for axis in given.type.tensor_type.shape.dim]
        assert axes == ([-1, *dims] if batch else dims)

    def test_rows_need_no_axis_for_the_items(self, tmp_path: Path) -> None:
        assert exported(QWEN, "--triton", tmp_path, "--name", "bytes") == 0
        assert sides(config_of(tmp_path / "bytes").input) == [("pixel_values", "TYPE_UINT8", [-1, 1176])]

    def test_an_ensemble_looks_as_the_model_behind_it_but_for_the_bytes(self, tmp_path: Path) -> None:
        theirs = tmp_path / "mine" / "config.pbtxt"
        theirs.parent.mkdir()
        theirs.write_text(
            'backend: "python" max_batch_size: 4\n'
            'input [{ name: "prompt" data_type: TYPE_STRING dims: [ 1 ] },'
            ' { name: "images" data_type: TYPE_FP16 dims: [ -1, 3, -1, -1 ] }]\n'
            'output [{ name: "text" data_type: TYPE_STRING dims: [ 1 ] }]\n'
            "model_transaction_policy { decoupled: true }\n"
        )
        flags = ("--before", "mine", "--rename", "pixel_values=images", "--name", "n", "--ensemble", "e")
        assert exported(CLIP, "--triton", tmp_path, *flags) == 0
        normalizer, ensemble = config_of(tmp_path / "n"), config_of(tmp_path / "e")
        assert sides(normalizer.output) == [("pixel_values_normalized", "TYPE_FP16", [-1, 3, 224, 224])]
        assert (normalizer.max_batch_size, ensemble.max_batch_size, ensemble.platform) == (4, 4, "ensemble")
        assert sides(ensemble.input) == [
            ("prompt", "TYPE_STRING", [1]),
            ("images", "TYPE_UINT8", [-1, 3, 224, 224]),
        ]
        assert sides(ensemble.output) == [("text", "TYPE_STRING", [1])]
        assert ensemble.model_transaction_policy.decoupled
        first, second = ensemble.ensemble_scheduling.step
        assert (first.model_name, dict(first.input_map), dict(first.output_map)) == (
            "n",
            {"pixel_values": "images"},
            {"pixel_values_normalized": "images_normalized"},
        )
        assert (second.model_name, dict(second.input_map), dict(second.output_map)) == (
            "mine",
            {"prompt": "prompt", "images": "images_normalized"},
            {"text": "text"},
        )
        assert (tmp_path / "e" / "1").is_dir()

    def test_what_it_wrote_it_writes_anew_and_nothing_else(self, tmp_path: Path, capsys: Said) -> None:
        flags = ("--triton", tmp_path, "--name", "n")
        assert exported(CLIP, *flags) == 0
        assert exported(CLIP, *flags, "--data-type", "FP16") == 0
        assert sides(config_of(tmp_path / "n").output)[0][1] == "TYPE_FP16"
        (tmp_path / "n" / "config.pbtxt").write_text('platform: "onnxruntime_onnx"\n')
        capsys.readouterr()
        assert exported(CLIP, *flags) == 2
        assert f"{tmp_path}/n is there and was not written by this command" in capsys.readouterr().err
        assert (tmp_path / "n" / "config.pbtxt").read_text() == 'platform: "onnxruntime_onnx"\n'

    @pytest.mark.parametrize(
        ("config", "words"),
        [
            (None, "the configuration of model 'mine' cannot be read"),
            ("nonsense", "the configuration of model 'mine' cannot be read"),
            ("max_batch_size: 4", "declares no inputs or no outputs"),
            (declaring("TYPE_FP32", [3, 336, 336]), "has no input to feed at model 'mine'"),
            (
                declaring("TYPE_BF16", [3, 224, 224]),
                "is BF16, and what can be put before it gives FP32 or FP16",
            ),
            (declaring("TYPE_FP32", [3, 224, 224], "image"), "would have two of 'image'"),
        ],
    )
    def test_a_model_that_cannot_take_the_values_is_told_and_nothing_is_written(
        self, config: str | None, words: str, tmp_path: Path, capsys: Said
    ) -> None:
        (tmp_path / "mine").mkdir()
        if config is not None:
            (tmp_path / "mine" / "config.pbtxt").write_text(config)
        assert exported(CLIP, "--triton", tmp_path, "--before", "mine") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            ("--before mine --rename x=y", "`renames` speaks of 'x'"),
            ("--before mine --data-type FP32", "are those of the model"),
            ("--before mine --max-batch-size 4", "are those of the model"),
            ("--before mine --ensemble mine", "was not written by this command"),
            ("--before mine --ensemble n", "two models cannot both be called 'n'"),
            ("--ensemble e", "name it with `--before`"),
            ("--rename a=b", "name it with `--before`"),
        ],
    )
    def test_flags_that_contradict_are_told_and_nothing_is_written(
        self, flags: str, words: str, tmp_path: Path, capsys: Said
    ) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "config.pbtxt").write_text(declaring("TYPE_FP32", [3, 224, 224]))
        assert exported(CLIP, "--triton", tmp_path, "--name", "n", *flags.split()) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    @pytest.mark.parametrize("name", ["a/b", "..", "../a", "."])
    def test_a_name_is_a_directory_s(self, name: str, tmp_path: Path, capsys: Said) -> None:
        assert exported(CLIP, "--triton", tmp_path / "in", "--name", name) == 2
        assert "is no name for a model" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_a_repository_that_is_a_file_is_told(self, tmp_path: Path, capsys: Said) -> None:
        (tmp_path / "file").touch()
        assert exported(CLIP, "--triton", tmp_path / "file") == 2
        assert "cannot be written" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "flags", [("--max-batch-size", "-1"), ("--rename", "a"), ("--data-type", "BF16")]
    )
    def test_flags_that_cannot_be_read_have_status_2(self, flags: tuple[str, ...], tmp_path: Path) -> None:
        with pytest.raises(SystemExit) as ended:
            exported(CLIP, "--triton", tmp_path, *flags)
        assert ended.value.code == 2


# Stands in for the onnxruntime backend, which the testbed's Triton does not have.
STAND_IN = f"""
import sys
from pathlib import Path

sys.path.append({str(PROJECT)!r})

import onnxruntime

from testbed.backend import Arrays, Model


class TritonPythonModel(Model):
    def setup(self, _):
        file = str(Path(__file__).parent / "model.onnx")
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def answer(self, inputs: Arrays) -> Arrays:
        return dict(zip([each.name for each in self.session.get_outputs()], self.session.run(None, inputs)))
"""

# The testbed's models that values are put before, and for which checkpoint.
BEHIND = {
    "checksum_fp32": CLIP,
    "checksum_fp16": CLIP,
    "checksum_together": CLIP,
    "checksum_prompted": CLIP,
    "streamer": CLIP,
    "patches": QWEN,
}


@pytest.fixture(scope="module")
def ensembles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Triton that has loaded every ensemble, and of them the configurations as written."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    repository = tmp_path_factory.mktemp("repository")
    for model, checkpoint in BEHIND.items():
        (repository / model).symlink_to(MODELS / model)
        name = f"{model}_normalizer"
        assert exported(checkpoint, "--triton", repository, "--name", name, "--before", model) == 0
        config = repository / name / "config.pbtxt"
        written = config.read_text()
        assert 'platform: "onnxruntime_onnx"' in written
        config.write_text(written.replace('platform: "onnxruntime_onnx"', 'backend: "python"'))
        (repository / name / "1" / "model.py").write_text(STAND_IN)
    with Triton.start([f"{model}_uint8" for model in BEHIND], repository=repository) as triton:
        yield triton.grpc_address


@pytest.fixture(scope="module")
def client(ensembles: str) -> Iterator[Client]:
    """Of a sidecar whose models are the ensembles, and nothing else about them is set."""
    models = {model: checkpoint.name for model, checkpoint in BEHIND.items()}
    upstreams = [f"models.{model}.upstream={model}_uint8" for model in BEHIND]
    with running(models, ensembles, *upstreams) as sidecar, Client(sidecar.address) as client:
        yield client


PICTURE = noise(300, 420)


@pytest.fixture(scope="module")
def encoded() -> bytes:
    """The picture as a PNG."""
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "png")
    return file.getvalue()


@pytest.mark.triton
@pytest.mark.full
class TestEnsembles:
    """A real sidecar before a real Triton: only the upstream's name is another, and the values arrive to the bit."""

    @pytest.mark.parametrize(
        ("model", "data_type"),
        [("checksum_fp32", DataType.FP32), ("checksum_fp16", DataType.FP16), ("patches", DataType.FP32)],
    )
    def test_the_model_gets_what_pack_would_have_made(
        self, model: str, data_type: DataType, client: Client, encoded: bytes
    ) -> None:
        values = packed(load_recipe(BEHIND[model]), PICTURE, data_type)
        assert int(client.infer(model, encoded).tensor("crc32").reshape(())) == crc32(values)

    def test_the_pixels_leave_as_bytes(self, client: Client) -> None:
        told = {model.name: model for model in client.models()}
        assert {told[model].media_inputs[0].data_type for model in BEHIND} == {"UINT8"}

    def test_the_items_of_a_request_go_together(self, client: Client, encoded: bytes) -> None:
        batch = client.infer("checksum_together", [encoded, encoded])
        values = packed(load_recipe(CLIP), PICTURE, DataType.FP32)
        assert int(batch.tensor("crc32")[0]) == crc32(np.stack([values, values]))

    @pytest.mark.parametrize("optional", [{}, {"scale": 2.0}])
    def test_plain_inputs_pass_by_optional_ones_too(
        self, optional: dict[str, Any], client: Client, encoded: bytes
    ) -> None:
        answer = client.infer(
            "checksum_prompted", encoded, inputs={"prompt": "a word", "ids": [1, 2], **optional}
        )
        values = packed(load_recipe(CLIP), PICTURE, DataType.FP32)
        expected = float(values.astype(np.float64).sum()) * float(optional.get("scale", 1))
        assert answer.tensor("checksum").reshape(-1)[0] == pytest.approx(expected, rel=1e-9)
        assert int(answer.tensor("ids_sum").reshape(())) == 3

    def test_a_stream_stays_one(self, client: Client, encoded: bytes) -> None:
        with client.infer_stream("streamer", encoded, inputs={"count": 3}) as stream:
            assert [int(outputs.tensor("index").reshape(())) for outputs in stream] == [0, 1, 2]

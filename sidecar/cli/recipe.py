"""`sidecar recipe`: what a model's files make of its media, told before anything is served; and its export."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sidecar.cli.export import Wanted, export
from sidecar.errors import CallerError, SettingsError
from sidecar.media import AudioInfo, DataType, ImageInfo, Modality, Source, TensorSpec
from sidecar.recipes.export import VALUES
from sidecar.recipes.image import ImageRecipe
from sidecar.recipes.loader import load_recipe, source_of, video_processor
from sidecar.recipes.recipe import Recipe, ignored_step
from sidecar.recipes.sound import SoundRecipe
from sidecar.stages.admit.cost import CostModel
from sidecar.stages.deliver.naming import shape_words
from sidecar.stages.probe import probe

_SIZE: Final = re.compile(r"([1-9]\d{0,8})x([1-9]\d{0,8})")
_JPEG: Final = "jpeg"

Told = Mapping[str, Any]
"""A JSON object."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verbs of `sidecar recipe` and their flags."""
    verbs = parser.add_subparsers(dest="verb", required=True)
    showing = verbs.add_parser(
        "show",
        help="print what will be done with a model's media",
        description="Print the steps and numbers that a model's files ask for, the outputs, and what becomes of a"
        " given picture. Shapes and bytes are in the outputs' natural types.",
    )
    showing.add_argument(
        "--mode",
        choices=("exact", "fast"),
        default="exact",
        help="as the setting of that name (default: exact)",
    )
    picture = showing.add_mutually_exclusive_group()
    picture.add_argument(
        "--image", type=Path, metavar="FILE", help="tell what becomes of this picture, from its header"
    )
    picture.add_argument(
        "--size",
        type=_size,
        metavar="WxH",
        help="tell what becomes of an upright JPEG of that width and height",
    )
    showing.add_argument("--json", action="store_true", help="print one JSON object")
    exporting = verbs.add_parser(
        "export",
        help="write the model that normalises on the model server",
        description="Write the ONNX model that makes values of UINT8 pixels into a Triton model repository and,"
        " with --before, an ensemble that puts it before a model.",
    )
    exporting.add_argument("--triton", type=Path, metavar="DIR", required=True, help="the model repository")
    exporting.add_argument(
        "--name",
        help="what to call the ONNX model (default: MODEL_DIR's own name with _normalizer behind it)",
    )
    exporting.add_argument(
        "--data-type", choices=[kind.value for kind in VALUES], help="of the values (default: FP32)"
    )
    exporting.add_argument(
        "--max-batch-size", type=_count, metavar="N", help="as in config.pbtxt (default: 0, no batch axis)"
    )
    exporting.add_argument(
        "--before",
        metavar="MODEL",
        help="the repository's model that takes the values: write an ensemble too",
    )
    exporting.add_argument(
        "--rename",
        action="append",
        default=[],
        type=_rename,
        metavar="OUTPUT=INPUT",
        help="which input of MODEL an output of the recipe feeds, where names do not tell; may be repeated",
    )
    exporting.add_argument("--ensemble", metavar="NAME", help="what to call it (default: MODEL_uint8)")
    for each in (showing, exporting):
        each.add_argument(
            "directory", type=Path, metavar="MODEL_DIR", help="the directory with preprocessor_config.json"
        )
        each.add_argument(
            "--modality",
            choices=[modality.value for modality in Modality],
            help="which processor is meant, where the model's files name one for each",
        )
        each.add_argument(
            "--reference",
            default="auto",
            help="as the setting of that name: pil, torchvision, auto (default)",
        )


def recipe(options: argparse.Namespace) -> int:
    """Runs a verb with its flags. Returns 0, or 1 where the given picture cannot be prepared."""
    return {"show": _show, "export": _export}[options.verb](options)


def _show(options: argparse.Namespace) -> int:
    shown = _recipe(options, exact=options.mode == "exact", fast=options.mode == "fast")
    told: dict[str, Any] = {
        "source": source_of(options.directory, shown),
        "processor": shown.processor,
        "modality": shown.modality.value,
        "reference": shown.reference,
        "exact": shown.exact,
        "mode": options.mode,
        "steps": [step for step in shown.steps if step not in ignored_step(_ignored(shown))],
        "outputs": [_output(shown, spec) for spec in shown.outputs],
        "ignored": list(_ignored(shown)),
        "video": video_processor(options.directory),
    }
    try:
        if (info := _picture(options, shown)) is not None:
            told["picture"] = _prepared(shown, info)
    except CallerError as error:
        asked = options.image or "size {}x{}".format(*options.size)
        print(f"sidecar: {asked}: {error.message}", file=sys.stderr)  # noqa: T201 - a command's output
        return 1
    text = json.dumps(told, indent=2) if options.json else "\n".join(_lines(told))
    # A key of the files may hold half a character, which no terminal takes.
    print(text.encode("utf-8", "backslashreplace").decode())  # noqa: T201 - a command's output
    return 0


def _export(options: argparse.Namespace) -> int:
    name = options.name if options.name is not None else f"{options.directory.resolve().name}_normalizer"
    written = export(
        # What is normalised does not hang on how it was resized.
        _recipe(options, exact=False, fast=False),
        Wanted(
            repository=options.triton,
            name=name,
            data_type=options.data_type and DataType(options.data_type),
            max_batch_size=options.max_batch_size,
            before=options.before,
            renames=dict(options.rename),
            ensemble=options.ensemble,
        ),
    )
    for directory in written:
        print(f"wrote {directory}")  # noqa: T201 - a command's output
    return 0


def _recipe(options: argparse.Namespace, *, exact: bool, fast: bool) -> Recipe:
    return load_recipe(
        options.directory,
        modality=options.modality and Modality(options.modality),
        reference=options.reference,
        exact=exact,
        fast=fast,
    )


def _ignored(shown: Recipe) -> tuple[str, ...]:
    match shown:
        case ImageRecipe():
            return shown.common.ignored
        case SoundRecipe():
            return shown.ignored
        case _:
            return ()


def _output(shown: Recipe, spec: TensorSpec) -> Told:
    return {
        "name": spec.name,
        "data_type": spec.data_type.value,
        "shape": list(spec.shape),
        "rows": spec.rows,
        "optional": spec.optional,
        "accepts": [kind.value for kind in DataType if shown.accepts(spec.name, kind)],
    }


def _picture(options: argparse.Namespace, shown: Recipe) -> ImageInfo | None:
    """The picture asked about. Raises SettingsError where there cannot be one, and what probe does."""
    if options.image is None and options.size is None:
        return None
    if shown.modality is not Modality.IMAGE:
        raise SettingsError(
            f"{shown.processor} takes no pictures: leave out `--image` and `--size`",
            key="--image",
            value=options.image,
        )
    if options.size is not None:
        width, height = options.size
        return ImageInfo(_JPEG, 0, width, height, "RGB")
    try:
        info = probe(Source(options.image.read_bytes()))
    except OSError as error:
        raise SettingsError(
            f"`--image`: {options.image} cannot be read: {error}", key="--image", value=options.image
        ) from error
    if isinstance(info, AudioInfo):
        raise SettingsError(f"`--image`: {options.image} is a sound", key="--image", value=options.image)
    return info


def _prepared(shown: Recipe, info: ImageInfo) -> Told:
    """What becomes of a picture. Raises CallerError's leaves where it cannot be prepared."""
    assert isinstance(shown, ImageRecipe)  # noqa: S101 - those of pictures are
    width, height = info.upright_size
    plan = shown.plan((height, width))
    natural = {spec.name: spec.data_type for spec in shown.outputs}
    nbytes = shown.output_bytes(info, natural)
    cost = CostModel().quote(info, shown.decode_target(info), shown.workload(info, natural)).cost
    return {
        "format": info.format,
        "width": width,
        "height": height,
        "resized": [list(size) for size in plan.resized],
        "outputs": [
            {"name": name, "shape": list(shape), "bytes": nbytes[name]} for name, shape in plan.shapes.items()
        ],
        "tokens": shown.tokens(info),
        "predicted": {"cpu_ms": round(cost.cpu_ms, 3), "decoded_bytes": cost.decoded_bytes},
    }


def _lines(told: Told) -> Iterator[str]:
    """The same for people."""
    yield f"{told['processor']}, of {told['source']}"
    bits = "its bits are met" if told["exact"] else "its bits are not promised, see the steps"
    yield f"reference: {told['reference']}; {bits}"
    yield f"mode: {told['mode']}"
    yield "steps:"
    yield from (f"  {number}. {step}" for number, step in enumerate(told["steps"], start=1))
    yield "outputs:"
    for output in told["outputs"]:
        yield (
            f"  {output['name']}: {output['data_type']} {_shape(output['shape'])}"
            f"{', rows of all items one behind another' if output['rows'] else ''}"
            f"{', optional' if output['optional'] else ''}; can be {', '.join(output['accepts'])}"
        )
    yield f"keys ignored, as the processor itself does: {', '.join(told['ignored']) or 'none'}"
    if told["video"]:
        yield f"for video: {told['video']}, which is not served yet"
    if "picture" in told:
        yield from _picture_lines(told["picture"])


def _picture_lines(picture: Told) -> Iterator[str]:
    yield f"a {picture['format']} of {picture['width']}x{picture['height']} (width x height, upright):"
    for height, width in picture["resized"]:
        yield f"  resized to {width}x{height}"
    for output in picture["outputs"]:
        yield f"  {output['name']}: {_shape(output['shape'])}, {output['bytes']} bytes"
    tokens, cost = picture["tokens"], picture["predicted"]
    yield f"  placeholder tokens: {'none, or not told by the files' if tokens is None else tokens}"
    yield f"  predicted cost: {cost['cpu_ms']:.1f} ms of one core, {cost['decoded_bytes']} bytes decoded"


def _shape(shape: Sequence[int]) -> str:
    return shape_words(tuple(shape))


def _size(text: str) -> tuple[int, int]:
    """(width, height) of "1920x1080"."""
    if (found := _SIZE.fullmatch(text)) is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size: give width and height in pixels, such as 1920x1080"
        )
    return int(found[1]), int(found[2])


def _count(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no count: give a whole number from 0 to 999999999")


def _rename(text: str) -> tuple[str, str]:
    """The two names of "pixel_values=images"."""
    output, equals, given = text.partition("=")
    if output and equals and given:
        return output, given
    raise argparse.ArgumentTypeError(f"{text!r} is no rename: give OUTPUT=INPUT, such as pixel_values=images")

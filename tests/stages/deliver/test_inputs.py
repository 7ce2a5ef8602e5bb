import pytest

from sidecar.errors import InvalidInput, InvalidRequest
from sidecar.media import DataType, Tensor, TensorSpec
from sidecar.stages.deliver.elements import encode
from sidecar.stages.deliver.inputs import MAX_BYTES_ELEMENTS, check_inputs, check_outputs

PROMPT = TensorSpec("prompt", DataType.BYTES, (-1,))
SEED = TensorSpec("seed", DataType.INT64, (1,), optional=True)
SPECS = (PROMPT, SEED)

a_prompt = Tensor("prompt", DataType.BYTES, (1,), encode([b"what is it?"]))
a_seed = Tensor("seed", DataType.INT64, (1,), bytes(8))


def test_inputs_come_out_in_the_order_of_the_model() -> None:
    assert check_inputs([a_seed, a_prompt], SPECS) == (a_prompt, a_seed)


def test_an_optional_input_may_be_left_out() -> None:
    assert check_inputs([a_prompt], SPECS) == (a_prompt,)


@pytest.mark.parametrize(
    ("given", "name", "message"),
    [
        pytest.param([a_seed], "prompt", "is missing; the model needs it as BYTES [-1]", id="missing"),
        pytest.param([a_prompt, a_prompt], "prompt", "is given twice", id="twice"),
        pytest.param(
            [a_prompt, Tensor("pixels", DataType.UINT8, (1,), b"x")],
            "pixels",
            "is made from the media",
            id="made from media",
        ),
        pytest.param(
            [a_prompt, Tensor("temperature", DataType.FP32, (1,), bytes(4))],
            "temperature",
            "is not one that the model takes; it takes: 'prompt', 'seed'",
            id="unknown",
        ),
        pytest.param(
            [a_prompt, Tensor("seed", DataType.INT32, (1,), bytes(4))],
            "seed",
            "is INT32; the model takes INT64 [1]",
            id="type",
        ),
        pytest.param(
            [a_prompt, Tensor("seed", DataType.INT64, (1, 1), bytes(8))],
            "seed",
            "is INT64 [1, 1]; the model takes INT64 [1], without the batch axis",
            id="axes",
        ),
        pytest.param(
            [a_prompt, Tensor("seed", DataType.INT64, (1,), bytes(7))],
            "seed",
            "holds 7 bytes where INT64 [1] takes 8",
            id="length",
        ),
        pytest.param(
            [Tensor("prompt", DataType.BYTES, (1,), b"plain text")],
            "prompt",
            "which are not the elements of BYTES [1]",
            id="not laid out as bytes",
        ),
        pytest.param(
            [Tensor("prompt", DataType.BYTES, (-1,), b"")], "prompt", "negative length", id="negative"
        ),
        pytest.param(
            [Tensor("prompt", DataType.BYTES, (2**62,), b"")],
            "prompt",
            f"at most {MAX_BYTES_ELEMENTS}",
            id="too many elements",
        ),
    ],
)
def test_a_contradiction_names_the_input_and_what_is_expected(
    given: list[Tensor], name: str, message: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        check_inputs(given, SPECS, ("pixels",))
    assert refusal.value.facts["input"] == name
    assert f"input {name!r} " in refusal.value.message
    assert message in refusal.value.message


def test_outputs_that_the_model_gives_may_be_asked_for() -> None:
    check_outputs([], SPECS)
    check_outputs(["seed", "prompt"], SPECS)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["logits"], "'logits' is not one that the model gives; it gives: 'prompt', 'seed'"),
        (["seed", "prompt", "seed"], "'seed' is asked for twice"),
    ],
)
def test_an_output_that_the_model_does_not_give_is_refused_by_name(wanted: list[str], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as refusal:
        check_outputs(wanted, SPECS)
    assert refusal.value.facts["field"] == "outputs"

import pytest

from sidecar.errors import InvalidRequest
from sidecar.stages.deliver.parameters import RESERVED, check_parameters
from sidecar.stages.deliver.upstream import ParameterValue


def test_a_parameter_of_the_model_s_own_passes() -> None:
    check_parameters({"max_tokens": 64, "temperature": 0.5, "stop": "\n", "greedy": True})


@pytest.mark.parametrize("name", [*sorted(RESERVED), "triton_enable_empty_final_response", "triton_", ""])
def test_a_reserved_or_empty_name_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check_parameters({name: 1})
    assert refusal.value.facts["field"] == f"parameters[{name!r}]"


@pytest.mark.parametrize(
    ("value", "fits"), [(2**63 - 1, True), (-(2**63), True), (2**63, False), (1e300, True)]
)
def test_a_whole_number_must_fit_in_64_bits(value: ParameterValue, fits: bool) -> None:
    if fits:
        check_parameters({"seed": value})
        return
    with pytest.raises(InvalidRequest, match="64 bits"):
        check_parameters({"seed": value})

from hypothesis import given
from hypothesis import strategies as st

from sidecar.media import DataType, Tensor
from sidecar.stages.deliver.elements import decode, encode, ends, fault

texts = st.lists(st.binary(max_size=20), max_size=20)


def of_bytes(data: bytes, *shape: int) -> Tensor:
    return Tensor("t", DataType.BYTES, shape, data)


@given(texts)
def test_byte_strings_survive_the_round_trip(values: list[bytes]) -> None:
    tensor = of_bytes(encode(values), len(values))
    assert fault(tensor) is None
    assert values == decode(tensor)


def test_the_layout_is_a_little_endian_length_and_the_bytes() -> None:
    assert encode([b"hi", b""]) == b"\x02\x00\x00\x00hi\x00\x00\x00\x00"


@given(st.binary(max_size=64), st.integers(0, 8))
def test_no_bytes_are_taken_for_elements_unless_encoding_gives_them_back(data: bytes, count: int) -> None:
    tensor = of_bytes(data, count)
    if fault(tensor) is None:
        assert count == len(decode(tensor))
        assert data == encode(decode(tensor))
    else:
        assert decode(tensor) == []


@given(texts, st.data())
def test_a_shortened_tensor_of_bytes_is_at_fault(values: list[bytes], data: st.DataObject) -> None:
    whole = encode([*values, b"last"])
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert fault(of_bytes(whole[:cut], len(values) + 1)) is not None


def test_a_few_declared_elements_are_not_searched_for_in_many_bytes() -> None:
    zeros = of_bytes(bytes(40_000_000), 1)
    assert ends(zeros) is None


def test_the_elements_end_where_the_next_begins() -> None:
    assert ends(of_bytes(encode([b"hi", b"", b"x"]), 3)) == [6, 10, 15]


@given(st.sampled_from([kind for kind in DataType if kind is not DataType.BYTES]), st.integers(0, 5))
def test_a_dense_tensor_takes_its_elements_times_their_size(data_type: DataType, length: int) -> None:
    size = 2 * length * data_type.itemsize
    assert fault(Tensor("t", data_type, (2, length), bytes(size))) is None
    assert fault(Tensor("t", data_type, (2, length), bytes(size + 1))) is not None


def test_a_scalar_has_one_element() -> None:
    assert fault(Tensor("t", DataType.INT64, (), bytes(8))) is None


def test_a_fault_is_told_with_what_was_found_and_what_is_needed() -> None:
    assert fault(Tensor("t", DataType.FP32, (2, 3), bytes(10))) == "holds 10 bytes where FP32 [2, 3] takes 24"
    assert fault(Tensor("t", DataType.FP32, (-1, -3), b"")) == "has a negative length in its shape [-1, -3]"

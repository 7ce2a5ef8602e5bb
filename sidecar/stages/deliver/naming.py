"""How messages speak of tensors: type and shape, the same words wherever two sides are held together."""

from __future__ import annotations

from sidecar.media import Tensor, TensorSpec


def shape_words(shape: tuple[int, ...]) -> str:
    """Axis lengths as a person writes them: "[3, -1, -1]"."""
    return f"[{', '.join(map(str, shape))}]"


def spec_words(spec: TensorSpec) -> str:
    """Type and shape rule: "FP32 [3, -1, -1]"."""
    return f"{spec.data_type.value} {shape_words(spec.shape)}"


def tensor_words(tensor: Tensor) -> str:
    """Type and shape: "FP32 [3, 224, 224]"."""
    return f"{tensor.data_type.value} {shape_words(tensor.shape)}"

"""Fails on every request, as a model does whose code raises."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

from collections.abc import Sequence

import triton_python_backend_utils as pb

from testbed.backend import Request, Response


class TritonPythonModel:
    """The error is Triton's default kind, INTERNAL."""

    def execute(self, requests: Sequence[Request]) -> list[Response]:
        error = pb.TritonError("this model always fails")
        return [pb.InferenceResponse(error=error) for _ in requests]

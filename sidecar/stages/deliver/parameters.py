"""Which request parameters a caller may hand through to the model server.

The protocol keeps some names for itself. A caller who could set them would steer the server's own
machinery (its scheduler, its shared memory, its stream ends) past the sidecar, or would only find
out from the server's refusal, so they are refused here, before anything is sent.

Reserved by the KServe v2 extensions (sequence, timeout, shared memory, binary data, classification) and by
Triton's own prefix. `priority` goes through: it orders the work here as it does there.
"""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.errors import InvalidRequest
from sidecar.stages.deliver.upstream import ParameterValue

RESERVED = frozenset(
    {
        "binary_data",
        "binary_data_output",
        "binary_data_size",
        "classification",
        "headers",
        "sequence_end",
        "sequence_id",
        "sequence_start",
        "shared_memory_byte_size",
        "shared_memory_offset",
        "shared_memory_region",
        "timeout",
    }
)
RESERVED_PREFIX = "triton_"

_INT64 = range(-(2**63), 2**63)


def check_parameters(parameters: Mapping[str, ParameterValue]) -> None:
    """Raises InvalidRequest for a name that is empty or reserved, or a whole number outside 64 bits."""
    for name, value in parameters.items():
        field = f"parameters[{name!r}]"
        if not name:
            raise InvalidRequest("a parameter has an empty name; name it or leave it out", field=field)
        if name in RESERVED or name.startswith(RESERVED_PREFIX):
            raise InvalidRequest(
                f"parameter {name!r} is reserved by the model server's protocol; leave it out",
                field=field,
            )
        if isinstance(value, int) and value not in _INT64:
            raise InvalidRequest(
                f"parameter {name!r} is {value}, which does not fit in 64 bits; send it as text",
                field=field,
            )

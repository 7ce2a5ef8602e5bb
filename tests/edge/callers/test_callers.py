"""Whom the door asks for what, by methods' paths and metadata alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.edge.callers.config import CallersConfig
from sidecar.edge.callers.door import Callers
from sidecar.edge.callers.token_file import made
from sidecar.edge.certificates import TlsConfig
from sidecar.errors import PermissionDenied, Unauthenticated

INFER, HEALTH = "/multimodal.v1.Preprocessor/Infer", "/grpc.health.v1.Health/Check"
FOR_OPERATORS = (
    "/multimodal.v1.Diagnostics/Verdict",
    "/multimodal.v1.Diagnostics/WatchVerdict",
    "/multimodal.v1.Diagnostics/SelfCheck",
    "/multimodal.v1.Diagnostics/SetThreadPlan",
    "/inference.GRPCInferenceService/RepositoryModelLoad",
    "/inference.GRPCInferenceService/RepositoryModelUnload",
    "/inference.GRPCInferenceService/LogSettings",
    "/inference.GRPCInferenceService/TraceSetting",
)


@pytest.fixture
def token(tmp_path: Path) -> str:
    """Of the tenant agents."""
    secret, line = made("agents")
    (tmp_path / "tokens").write_text(line)
    return secret


def callers(tmp_path: Path, **given: object) -> Callers:
    config = CallersConfig(tokens=str(tmp_path / "tokens"), **given)  # type: ignore[arg-type]  # of a test
    return Callers(config, TlsConfig(), "x-tenant-id")


def bearing(token: str) -> list[tuple[str, str | bytes]]:
    return [("x-other", b"1"), ("authorization", f"Bearer {token}")]


def test_where_no_tokens_are_set_nobody_is_asked() -> None:
    asking = Callers(CallersConfig(), TlsConfig(), "x-tenant-id")
    assert not asking.need_tokens
    assert asking.by_token(INFER, None) is None


def test_probes_are_asked_only_where_health_is_closed(tmp_path: Path, token: str) -> None:
    assert callers(tmp_path).by_token(HEALTH, None) is None
    closed = callers(tmp_path, health="closed")
    with pytest.raises(Unauthenticated):
        closed.by_token(HEALTH, None)
    assert closed.by_token(HEALTH, bearing(token))


@pytest.mark.parametrize("method", FOR_OPERATORS)
def test_what_shows_or_changes_more_than_ones_own_is_for_operators(
    tmp_path: Path, token: str, method: str
) -> None:
    with pytest.raises(PermissionDenied, match=r"callers\.operators"):
        callers(tmp_path).by_token(method, bearing(token))
    assert callers(tmp_path, operators=("agents",)).by_token(method, bearing(token))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_told_by_its_letters_whatever_their_case(
    tmp_path: Path, token: str, scheme: str
) -> None:
    found = callers(tmp_path).by_token(INFER, [("authorization", f"{scheme} {token}")])
    assert found is not None
    assert (found.tenant, found.by_token) == ("agents", True)

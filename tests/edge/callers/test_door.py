"""Who calls a whole sidecar: by tokens and certificates, over both APIs and beside them, and what stays untold."""

from __future__ import annotations

import http.server
import io
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from jwt.algorithms import ECAlgorithm
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc

from inference_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    FetchFailed,
    FetchRefused,
    InvalidRequest,
    PermissionDenied,
    Retries,
    SidecarError,
    Tls,
    Unauthenticated,
    link,
    token_file,
)
from sidecar.cli.main import run
from sidecar.edge.callers.caller import CALLER, Caller
from sidecar.edge.callers.token_file import made
from sidecar.edge.open_inference.service import onward
from tests.edge.callers.authority import Authority
from tests.running import Running, running

CLIP = {"clip": "clip-vit-base-patch32"}
ISSUER = {"iss": "https://issuer.test", "aud": "sidecar"}
PATIENCE_S = 20.0
# Each is looked for in all that is logged, so each is a word that nothing else has.
SECRET_PATH, SECRET_QUERY, SECRET_PASSWORD = "pathsecret", "querysecret", "passwordsecret"


def picture() -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(file, "PNG")
    return file.getvalue()


@dataclass(slots=True)
class Secured:
    """A sidecar with TLS, tokens and fetching, and what its callers have."""

    running: Running
    ca: Path
    tokens: dict[str, str]
    key: ec.EllipticCurvePrivateKey
    lines: list[str] = field(default_factory=list)

    def client(self, token: str = "", **given: Any) -> Client:
        usual: dict[str, Any] = {"tls": Tls(self.ca), "retries": Retries(attempts=1), "timeout": PATIENCE_S}
        address = given.pop("address", self.running.address)
        return Client(address, token=token, **usual | given)

    def signed(self, tenant: str, **claims: Any) -> str:
        given = ISSUER | {"sub": tenant, "exp": time.time() + 600} | claims
        return jwt.encode(given, self.key, "ES256", {"kid": "one"})

    def channel(self, address: str = "") -> grpc.Channel:
        return grpc.secure_channel(address or self.running.address, Tls(self.ca).credentials())


class _Lines(logging.Handler):
    """All that is logged, at every level, as it would be written."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._lines = lines
        self.setFormatter(logging.Formatter("%(name)s %(message)s %(fields)s", defaults={"fields": ""}))

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


@contextmanager
def listening(lines: list[str]) -> Iterator[None]:
    # Not the root: numba, which sees none of it, says a line an instruction.
    loggers = [logging.getLogger(name) for name in ("sidecar", "grpc", "asyncio", "concurrent")]
    handler, before = _Lines(lines), [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


@pytest.fixture(scope="module")
def web() -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.path.startswith(f"/{SECRET_PATH}.png")
            body = picture() if good else b""
            self.send_response(200 if good else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, web: int) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    authority, key = Authority(), ec.generate_private_key(ec.SECP256R1())
    certificate, private = authority.files(folder, "server", dns=["localhost"], ips=["127.0.0.1"])
    tenants = {name: made(name) for name in ("agents", "ops", "gateway")}
    (folder / "tokens").write_text("\n".join(line for _, line in tenants.values()))
    (folder / "keys").write_text(
        json.dumps({"keys": [json.loads(ECAlgorithm.to_jwk(key.public_key())) | {"kid": "one"}]})
    )
    lines: list[str] = []
    with (
        listening(lines),
        running(
            CLIP,
            None,
            f"tls={{certificate: {certificate}, key: {private}}}",
            f"callers.tokens={folder}/tokens",
            f"callers.jwt={{keys: {folder}/keys, issuer: '{ISSUER['iss']}', audience: sidecar}}",
            "callers.operators=[ops]",
            "callers.gateways=[gateway]",
            "server.diagnostics_listen=['127.0.0.1:0']",
            "server.health_listen=['127.0.0.1:0']",
            f"fetch={{hosts: [localhost], schemes: [http], ports: [{web}]}}",
            "fetch.allow_networks=['127.0.0.0/8', '::1/128']",
            "log.requests=all",
        ) as sidecar,
    ):
        tokens = {name: token for name, (token, _) in tenants.items()}
        yield Secured(sidecar, authority.file(folder), tokens, key, lines)


def streamed(client: Client) -> list[Any]:
    with client.infer_stream("clip", picture()) as stream:
        return list(stream)


def tenants(secured: Secured) -> set[str]:
    """Those by whom calls were let in, by the lines about requests."""
    found = (line.partition("'tenant': '")[2].partition("'")[0] for line in list(secured.lines))
    return {tenant for tenant in found if tenant}


def becomes_known(secured: Secured, tenant: str) -> bool:
    ends = time.monotonic() + PATIENCE_S
    while tenant not in tenants(secured):
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True


class TestTokens:
    def test_with_a_token_of_the_file_a_call_is_its_tenants(self, secured: Secured) -> None:
        with secured.client(secured.tokens["agents"]) as client:
            assert client.preprocess("clip", picture()).tensor().shape == (3, 224, 224)
        assert becomes_known(secured, "agents")

    def test_with_a_signed_token_a_call_is_its_subjects(self, secured: Secured) -> None:
        with secured.client(secured.signed("signed-team")) as client:
            assert client.preprocess("clip", picture()).tensor().shape == (3, 224, 224)
        assert becomes_known(secured, "signed-team")

    @pytest.mark.parametrize("token", ["", "wrong", "a.b.c"])
    def test_without_a_good_one_every_verb_is_refused(self, secured: Secured, token: str) -> None:
        with secured.client(token) as client:
            for ask in (
                client.models,
                lambda: client.preprocess("clip", picture()),
                lambda: client.infer("clip", picture()),
                lambda: streamed(client),
                lambda: client.estimate("clip", picture()),
            ):
                with pytest.raises(Unauthenticated) as refused:
                    ask()
                assert refused.value.status == "UNAUTHENTICATED"

    def test_an_expired_one_is_refused(self, secured: Secured) -> None:
        with secured.client(secured.signed("late", exp=time.time() - 60)) as client:
            with pytest.raises(Unauthenticated, match="expired"):
                client.models()

    def test_a_refused_upload_is_refused_before_its_media_is_read(self, secured: Secured) -> None:
        with secured.client("wrong", upload_threshold=2**20) as client:
            with pytest.raises(Unauthenticated):
                client.preprocess("clip", b"x" * 8 * 2**20)

    @pytest.mark.parametrize(
        "metadata",
        [
            (),
            (("authorization", "Basic eDp5"),),
            (("authorization", "Bearer "),),
            (("authorization", "bearer a"), ("authorization", "bearer b")),
        ],
    )
    def test_tritons_api_and_reflection_are_behind_the_same_door(
        self, secured: Secured, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        with secured.channel() as channel:
            triton = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            listing = reflection_pb2.ServerReflectionRequest(list_services="")
            for ask in (
                lambda: triton.ServerLive(service_pb2.ServerLiveRequest(), metadata=metadata),
                lambda: list(triton.ModelStreamInfer(iter([]), metadata=metadata)),
                lambda: list(reflection.ServerReflectionInfo(iter([listing]), metadata=metadata)),
            ):
                with pytest.raises(grpc.RpcError) as refused:
                    ask()
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

    def test_with_a_token_tritons_api_goes_its_way(self, secured: Secured) -> None:
        metadata = (("authorization", f"Bearer {secured.tokens['agents']}"),)
        with secured.channel() as channel, pytest.raises(grpc.RpcError) as refused:
            triton = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            triton.ServerLive(service_pb2.ServerLiveRequest(), metadata=metadata)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "triton.address" in str(refused.value.details())

    def test_a_token_is_not_passed_on_to_the_model_server(self) -> None:
        class Context:
            @staticmethod
            def invocation_metadata() -> list[tuple[str, str]]:
                return [("authorization", "Bearer a"), ("x-mine", "b")]

        context: Any = Context()
        assert dict(onward(context)) == {"authorization": "Bearer a", "x-mine": "b"}
        was = CALLER.set(Caller("agents"))
        assert dict(onward(context)) == {"x-mine": "b"}
        CALLER.reset(was)

    def test_refusals_are_counted_by_method_and_reason(self, secured: Secured) -> None:
        with secured.client("wrong") as client, pytest.raises(Unauthenticated):
            client.models()
        address = f"http://{secured.running.app.metrics_address}/metrics"
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:
            text = answer.read().decode()
        assert 'sidecar_calls_total{method="ListModels",reason="UNAUTHENTICATED"}' in text

    async def test_the_asyncio_client_shows_its_token_too(self, secured: Secured, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text("wrong\n")
        async with AsyncClient(
            secured.running.address, tls=Tls(secured.ca), token=token_file(file)
        ) as client:
            with pytest.raises(Unauthenticated):
                await client.models()
            file.write_text(secured.tokens["agents"] + "\n")  # renewed
            assert [model.name for model in await client.models()] == ["clip"]


class TestTenants:
    def test_who_is_known_cannot_name_another(self, secured: Secured) -> None:
        for tenant, is_well in (("agents", True), ("others", False)):
            with secured.client(secured.tokens["agents"], tenant=tenant) as client:
                if is_well:
                    assert client.preprocess("clip", picture())
                else:
                    with pytest.raises(PermissionDenied, match=r"callers\.gateways"):
                        client.preprocess("clip", picture())
        assert "others" not in tenants(secured)

    def test_a_gateway_names_for_whom_it_calls(self, secured: Secured) -> None:
        with secured.client(secured.tokens["gateway"], tenant="customer-7") as client:
            assert client.preprocess("clip", picture())
        assert becomes_known(secured, "customer-7")


class TestBeside:
    def test_diagnostics_are_on_their_own_address_and_for_operators(self, secured: Secured) -> None:
        (address,) = secured.running.app.beside["diagnostics_listen"]
        with secured.client(secured.tokens["ops"], address=address) as client:
            assert client.thread_plan().numbers
            with pytest.raises(SidecarError) as absent:
                client.models()
            assert absent.value.status == "UNIMPLEMENTED"
        with secured.client(secured.tokens["agents"], address=address) as client:
            with pytest.raises(PermissionDenied, match=r"callers\.operators"):
                client.thread_plan()
        with secured.client(secured.tokens["ops"]) as client:
            with pytest.raises(SidecarError) as absent:
                client.thread_plan()
            assert absent.value.status == "UNIMPLEMENTED"

    def test_probes_need_no_token_and_on_their_own_address_no_tls(self, secured: Secured) -> None:
        (address,) = secured.running.app.beside["health_listen"]
        with secured.channel() as safe, grpc.insecure_channel(address) as plain:
            for channel in (safe, plain):
                stub = health_pb2_grpc.HealthStub(channel)
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as absent:
                service_pb2_grpc.GRPCInferenceServiceStub(plain).ServerLive(service_pb2.ServerLiveRequest())
            assert absent.value.code() is grpc.StatusCode.UNIMPLEMENTED

    def test_commands_show_who_they_are(
        self, secured: Secured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (address,) = secured.running.app.beside["diagnostics_listen"]
        file = tmp_path / "token"
        file.write_text(secured.tokens["ops"])
        whom = [address, "--ca", str(secured.ca)]
        assert run(["doctor", *whom, "--token-file", str(file)], {}) == 0
        assert run(["top", "--once", *whom, "--token-file", str(file)], {}) == 0
        assert run(["doctor", *whom], {}) == 2
        assert "authorization" in capsys.readouterr().err
        assert run(["top", "--once", *whom, "--token-file", str(tmp_path / "none")], {}) == 2
        assert run(["doctor", "10.0.0.1:1", "--token-file", str(file)], {}) == 2
        assert "in the clear" in capsys.readouterr().err


class TestFetching:
    def test_media_is_fetched_by_its_address(self, secured: Secured, web: int) -> None:
        address = f"http://localhost:{web}/{SECRET_PATH}.png?{SECRET_QUERY}"
        with secured.client(secured.tokens["agents"]) as client:
            fetched, sent = client.preprocess("clip", [link(address), picture()])
            assert fetched.info is not None
            assert fetched.info.format == "png"
            assert (fetched.tensor() == sent.tensor()).all()
            assert fetched.tensor().shape == (3, 224, 224)

    def test_what_goes_wrong_is_the_items_own_problem(self, secured: Secured, web: int) -> None:
        with secured.client(secured.tokens["agents"]) as client:
            batch = client.preprocess(
                "clip",
                [
                    picture(),
                    link(f"http://localhost:{web}/none"),
                    link("http://169.254.169.254/latest/meta-data"),
                    link(f"http://user:{SECRET_PASSWORD}@localhost:{web}/a"),
                ],
            )
            assert [type(each.problem) for each in batch] == [
                type(None),
                FetchFailed,
                FetchRefused,
                InvalidRequest,
            ]
            (estimated,) = client.estimate("clip", link(f"http://localhost:{web}/a")).items
            assert isinstance(estimated.problem, InvalidRequest)

    def test_along_with_an_upload(self, secured: Secured, web: int) -> None:
        with secured.client(secured.tokens["agents"], upload_threshold=1) as client:
            address = f"http://localhost:{web}/{SECRET_PATH}.png"
            fetched, sent = client.preprocess("clip", [link(address), picture()])
            assert (fetched.tensor() == sent.tensor()).all()


class TestWhatIsLogged:
    def test_no_token_no_address_and_no_media_of_all_that_was_sent(self, secured: Secured, web: int) -> None:
        """Last in this file, so that it looks at all that the others did, at the level of debugging."""
        token, mine = secured.signed("logging"), picture()
        with secured.client(token) as client:
            client.preprocess(
                "clip", [mine, link(f"http://localhost:{web}/{SECRET_PATH}.png?{SECRET_QUERY}")]
            )
            client.preprocess("clip", [link(f"http://u:{SECRET_PASSWORD}@h/"), b"mediasecret" * 100])
            with pytest.raises(DeadlineExceeded):
                client.preprocess("clip", mine, timeout=1e-6)
        assert becomes_known(secured, "logging")
        logged = "\n".join(secured.lines)
        secrets = [
            token,
            *token.split("."),
            *secured.tokens.values(),
            SECRET_PATH,
            SECRET_QUERY,
            SECRET_PASSWORD,
        ]
        assert [secret for secret in secrets if secret in logged] == []
        assert "mediasecret" not in logged
        assert "PRIVATE KEY" not in logged
        assert repr(mine[:16])[2:-1] not in logged
        assert mine[16:48].hex() not in logged


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Authority, Path, list[str]]]:
    """One that asks for certificates, with a socket beside; the status page and reflection are closed."""
    folder = tmp_path_factory.mktemp("mutual")
    authority = Authority()
    certificate, key = authority.files(folder, "server", ips=["127.0.0.1"])
    lines: list[str] = []
    names = "[spiffe://test/agents, ops.test]"
    with (
        listening(lines),
        running(
            CLIP,
            None,
            f"server.listen=['127.0.0.1:0', 'unix:{folder}/s.sock']",
            f"tls={{certificate: {certificate}, key: {key}, client_ca: {authority.file(folder)}, names: {names}}}",
            "callers.operators=[ops.test]",
            "server.reflection=false",
            "metrics.status=false",
            "log.requests=all",
        ) as sidecar,
    ):
        yield sidecar, authority, folder, lines


class TestCertificates:
    def test_the_certificates_name_is_the_tenant(
        self, mutual: tuple[Running, Authority, Path, list[str]]
    ) -> None:
        sidecar, authority, folder, lines = mutual
        shown = authority.files(folder, "agents", uris=["spiffe://test/agents"], dns=["a.test"])
        with Client(sidecar.address, tls=Tls(folder / "ca.crt", *shown)) as client:
            assert client.preprocess("clip", picture())
            with pytest.raises(PermissionDenied, match=r"callers\.operators"):
                client.thread_plan()
        with Client(sidecar.address, tls=Tls(folder / "ca.crt", *shown), tenant="other") as client:
            with pytest.raises(PermissionDenied, match=r"callers\.gateways"):
                client.preprocess("clip", picture())
        ends = time.monotonic() + PATIENCE_S
        while not any("'tenant': 'spiffe://test/agents'" in line for line in list(lines)):
            assert time.monotonic() < ends
            time.sleep(0.01)

    def test_operators_may_ask_for_diagnostics(
        self, mutual: tuple[Running, Authority, Path, list[str]]
    ) -> None:
        sidecar, authority, folder, _ = mutual
        shown = authority.files(folder, "ops", dns=["ops.test"])
        with Client(sidecar.address, tls=Tls(folder / "ca.crt", *shown)) as client:
            assert client.thread_plan().numbers

    def test_names_that_are_not_listed_are_refused(
        self, mutual: tuple[Running, Authority, Path, list[str]]
    ) -> None:
        sidecar, authority, folder, _ = mutual
        shown = authority.files(folder, "stranger", dns=["stranger.test"])
        with Client(sidecar.address, tls=Tls(folder / "ca.crt", *shown)) as client:
            with pytest.raises(PermissionDenied, match=r"tls\.names"):
                client.models()

    def test_on_a_socket_of_this_machine_its_mode_alone_says_who_comes_in(
        self, mutual: tuple[Running, Authority, Path, list[str]]
    ) -> None:
        with Client(mutual[0].app.addresses[1], tenant="local") as client:
            assert client.preprocess("clip", picture())
            assert client.thread_plan().numbers

    def test_the_status_page_can_be_closed(self, mutual: tuple[Running, Authority, Path, list[str]]) -> None:
        address = f"http://{mutual[0].app.metrics_address}"
        with urllib.request.urlopen(f"{address}/metrics", timeout=PATIENCE_S) as answer:
            assert answer.status == 200
        for path in ("/", "/status.json"):
            with pytest.raises(urllib.error.HTTPError) as absent:
                urllib.request.urlopen(f"{address}{path}", timeout=PATIENCE_S)
            assert absent.value.code == 404
            absent.value.close()


def test_diagnostics_can_be_closed() -> None:
    with running(None, None, "server.diagnostics=false") as sidecar, Client(sidecar.address) as client:
        with pytest.raises(SidecarError) as absent:
            client.thread_plan()
        assert absent.value.status == "UNIMPLEMENTED"
        assert client.models() == []

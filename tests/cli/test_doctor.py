"""`sidecar doctor`: what it says of a sidecar, and the status that scripts go by."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from multimodal.v1 import diagnostics_pb2 as pb

from inference_client.replies import diagnosis
from sidecar.cli import doctor
from sidecar.cli.main import run
from tests.inference_client.scripted_server import HANG, Refusal, ScriptedServer, serving
from tests.inference_client.verdicts import CHECKED, quiet, upstream, verdict, well
from tests.running import running

Said = pytest.CaptureFixture[str]

MODERATE = upstream(level=pb.STARVATION_LEVEL_MODERATE, alarm=False)
TRANSPORT = well(finding=pb.FINDING_TRANSPORT)
ALARMED = well(alarm=True)
BATCH = well(finding=pb.FINDING_BATCH)
USED = "front 0.25, workers 1.50, idle 5.75"
HUNG = well("stuck", finding=pb.FINDING_HUNG, alarm=True)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        yield scripted


async def asked(address: str, *flags: str) -> int:
    return await asyncio.to_thread(run, ["doctor", address, *flags], {})


class TestStatus:
    @pytest.mark.parametrize(
        ("upstreams", "status"),
        [
            ((), 0),
            ((well(),), 0),
            ((quiet(),), 0),
            ((BATCH,), 0),
            ((MODERATE,), 1),
            ((upstream(),), 1),
            ((TRANSPORT,), 1),
            ((ALARMED,), 1),
            ((well(), quiet(), MODERATE), 1),
            ((HUNG,), 3),
            ((upstream(), HUNG, well()), 3),
        ],
        ids=str,
    )
    async def test_it_is_that_of_the_worst(
        self, server: ScriptedServer, upstreams: tuple[pb.UpstreamVerdict, ...], status: int
    ) -> None:
        server.will("Verdict", verdict(*upstreams))
        assert await asked(server.address) == status

    async def test_it_is_the_same_with_json(self, server: ScriptedServer) -> None:
        server.will("Verdict", verdict(HUNG))
        assert await asked(server.address, "--json") == 3

    def test_help_says_what_each_means(self, capsys: Said) -> None:
        with pytest.raises(SystemExit) as ended:
            run(["doctor", "--help"], {})
        assert ended.value.code == 0
        told = capsys.readouterr().out.partition("exit status:")[2].splitlines()
        assert [line.split()[0] for line in told if line] == ["0", "1", "2", "3"]


class TestWords:
    async def test_a_starved_model_is_told_of_in_full(self, server: ScriptedServer, capsys: Said) -> None:
        server.will("Verdict", verdict(upstream()))
        assert await asked(server.address) == 1
        assert capsys.readouterr().out.splitlines() == [
            f"sidecar at {server.address}, the last 10 s",
            "",
            "clip: starved 38% of the time, mostly by image decode.",
            "  ALARM, for 12 s",
            "  asked by: clip, clip_fast",
            "  61.2 rows/s of at most 120.5; busy 52.6 % of the time it was asked",
            "  its time:",
            "     50.0 %  busy         executes",
            "     37.5 %  idle_prep    starved: requests are in preprocessing, and there is nothing else",
            "      2.5 %  idle_xfer    waits for tensors on their way to it",
            "      5.0 %  idle_batch   has work in its queue and does not begin it",
            "      0.0 %  hung         has work and gives no sign of life",
            "      5.0 %  idle_demand  nobody asks",
            "     12.5 %  lost in batches with room for rows in preprocessing",
            "  starved by:",
            "     27.5 %  image decode",
            "     10.0 %  throttled",
            "  what would help:",
            "    set threads.image: 2 -> 3; 61 rows/s would be 98 rows/s: its threads are all in use",
            "    callers: far -> nearer: workers wait for bytes",
            "  note: the driver says 80% and the accounts 50%",
            "",
            "work: 11 calls; 7 items wait, workers have 5, model servers 6; threads: 2 image, 1 audio, 4 express",
            "sandbox: rlimits, seccomp; not here: landlock (no such kernel)",
            f"machine: 8 cores, of which a quota allows 2.5; {USED}; throttled 12.5 % of the time",
            "GPU 0 NVIDIA H200: used 80.0 % of the time, memory 62.5 %",
        ]

    async def test_what_is_not_so_is_not_told(self, server: ScriptedServer, capsys: Said) -> None:
        server.will("Verdict", verdict(well(counted=True), machine=pb.Machine(cores=2, idle=2.0), gpus=[]))
        assert await asked(server.address) == 0
        told = capsys.readouterr().out
        for word in (
            "ALARM",
            "starved by",
            "help",
            "note",
            "of at most",
            "quota",
            "throttled",
            "GPU",
            "lost",
        ):
            assert word not in told
        assert "machine: 2 cores; front 0.00, workers 0.00, idle 2.00" in told

    async def test_a_model_server_that_does_not_count_is_told_of(
        self, server: ScriptedServer, capsys: Said
    ) -> None:
        server.will("Verdict", verdict(well(), quiet()))
        assert await asked(server.address) == 0
        assert capsys.readouterr().out.count("the model server does not count") == 1

    async def test_a_sidecar_that_watches_no_model_server_says_so(
        self, server: ScriptedServer, capsys: Said
    ) -> None:
        server.will("Verdict", verdict())
        assert await asked(server.address) == 0
        assert "No model server is watched" in capsys.readouterr().out

    def test_an_alarm_of_hours_is_told_in_minutes(self) -> None:
        lines = doctor.report(diagnosis(verdict(upstream(alarm_for_s=7200.0))), None, "here")
        assert "  ALARM, for 120 min" in lines

    async def test_json_has_all_by_the_clients_names(self, server: ScriptedServer, capsys: Said) -> None:
        server.will("Verdict", verdict(upstream(), quiet()))
        server.will("SelfCheck", CHECKED)
        assert await asked(server.address, "--json", "--self-check", "clip") == 1
        told = json.loads(capsys.readouterr().out)
        assert (told["address"], told["status"]) == (server.address, 1)
        clip, ocr = told["verdict"]["upstreams"]
        assert (clip["finding"], clip["states"]["idle_prep"], clip["cause"]) == ("starved", 3.75, "decode")
        assert clip["advice"][0]["then_rows_per_s"] == 98.5
        assert (ocr["utilisation"], ocr["cause"]) == (None, None)
        assert told["verdict"]["fleet"]["workers"][0] == {"pid": 4711, "cores": 0.95}
        assert told["self_check"]["agree"] is True

    async def test_json_without_a_self_check_has_none(self, server: ScriptedServer, capsys: Said) -> None:
        server.will("Verdict", verdict())
        await asked(server.address, "--json")
        assert json.loads(capsys.readouterr().out)["self_check"] is None


class TestAsking:
    @pytest.mark.parametrize(
        ("flags", "window_s", "name"),
        [((), 10.0, ""), (("--window", "2.5"), 2.5, ""), (("--upstream", "clip"), 10.0, "clip")],
    )
    async def test_flags_reach_the_request(
        self, server: ScriptedServer, flags: tuple[str, ...], window_s: float, name: str
    ) -> None:
        server.will("Verdict", verdict())
        await asked(server.address, *flags)
        assert server.request("Verdict") == pb.VerdictRequest(window_s=window_s, upstream=name)
        assert "SelfCheck" not in server.seen

    async def test_a_self_check_is_made_when_asked_for(self, server: ScriptedServer, capsys: Said) -> None:
        server.will("Verdict", verdict(well()))
        server.will("SelfCheck", CHECKED)
        assert await asked(server.address, "--self-check", "clip") == 0
        assert server.request("SelfCheck").model == "clip"
        assert f"self-check: {CHECKED.summary}" in capsys.readouterr().out

    async def test_a_self_check_that_cannot_be_made_is_told_after_the_verdict(
        self, server: ScriptedServer, capsys: Said
    ) -> None:
        server.will("Verdict", verdict(well()))
        none = Refusal(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "DEADLINE_EXCEEDED",
            message="no request came",
            facts={"stage": "deliver"},
        )
        server.will("SelfCheck", none)
        assert await asked(server.address, "--self-check", "clip") == 2
        out, err = capsys.readouterr()
        assert "the accelerator is the limit" in out
        assert err == "sidecar: no self-check: no request came\n"


class TestNoAnswer:
    @staticmethod
    def complaint(capsys: Said) -> str:
        """The one line, where nothing else is said."""
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("sidecar: ")
        return line

    @pytest.mark.parametrize("address", ["127.0.0.1:1", "unix:/nowhere/at.all"])
    async def test_an_address_where_nobody_listens_is_one_line(self, address: str, capsys: Said) -> None:
        assert await asked(address) == 2
        line = self.complaint(capsys)
        assert address in line
        assert "Check that it runs and that the address is right" in line

    async def test_a_server_without_diagnostics_is_told_apart(
        self, server: ScriptedServer, capsys: Said
    ) -> None:
        server.will("Verdict", Refusal(grpc.StatusCode.UNIMPLEMENTED))
        assert await asked(server.address) == 2
        assert "answers, but has no diagnostics" in self.complaint(capsys)

    async def test_one_that_does_not_answer_in_time_is_told_apart(
        self, server: ScriptedServer, capsys: Said, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(doctor, "_PATIENCE_S", 0.2)
        server.will("Verdict", HANG)
        assert await asked(server.address) == 2
        assert "did not answer within 0.2 s" in self.complaint(capsys)

    async def test_what_the_sidecar_refuses_is_told_in_its_words(
        self, server: ScriptedServer, capsys: Said
    ) -> None:
        words = "nobody watches here:\n set `verdict.enabled`"
        server.will("Verdict", Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", message=words))
        assert await asked(server.address) == 2
        assert self.complaint(capsys) == "sidecar: nobody watches here: set `verdict.enabled`"

    @pytest.mark.parametrize("flags", [["--window", "long"], ["--nonsense"], ["a", "b"], ["--self-check"]])
    def test_a_command_line_that_cannot_be_read_has_the_same_status(self, flags: list[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            run(["doctor", *flags], {})
        assert ended.value.code == 2


def test_a_real_sidecar_before_no_model_server_is_well(capsys: Said) -> None:
    with running({"clip": "clip-vit-base-patch32"}) as sidecar:
        assert run(["doctor", sidecar.address], {}) == 0
        told = capsys.readouterr().out
        assert "No model server is watched" in told
        assert "work: 0 calls; 0 items wait" in told
        assert run(["doctor", sidecar.address, "--window", "99"], {}) == 2
        assert "`window_s` is 99" in capsys.readouterr().err
        assert run(["doctor", sidecar.address, "--upstream", "clip"], {}) == 2
        assert "watched are: none yet" in capsys.readouterr().err


def test_the_page_s_port_is_no_sidecar(capsys: Said) -> None:
    with running() as sidecar:
        assert run(["doctor", sidecar.app.metrics_address], {}) == 2
    assert "no sidecar answered" in capsys.readouterr().err


def status_of(*upstreams: Any) -> int:
    return doctor.status_of(diagnosis(verdict(*upstreams)))


@pytest.mark.parametrize("finding", [number for number in pb.Finding.values() if number])
def test_only_a_model_server_that_hangs_has_status_3(finding: pb.Finding.ValueType) -> None:
    assert (status_of(well(finding=finding)) == 3) == (finding == pb.FINDING_HUNG)

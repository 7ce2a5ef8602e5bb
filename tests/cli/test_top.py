"""`sidecar top`: what it draws of a verdict, and that it lives through what its sidecar does not."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from multimodal.v1 import diagnostics_pb2 as pb
from rich.console import Console

from inference_client import AcceleratorState
from inference_client.replies import diagnosis
from sidecar.cli import top
from sidecar.cli.main import run
from tests.inference_client.scripted_server import HANG, Refusal, ScriptedServer, serving
from tests.inference_client.verdicts import quiet, upstream, verdict, well
from tests.running import running

Said = pytest.CaptureFixture[str]

EVERYTHING = verdict(upstream(), well(), quiet())


def drawn(message: pb.VerdictResponse, width: int = 120, notice: str = "", *, colours: bool = False) -> str:
    """The frame of a verdict, as a terminal of that width would have it."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colours, color_system="standard" if colours else None
    )
    with console.capture() as captured:
        console.print(top.frame(diagnosis(message), "127.0.0.1:50051", notice))
    return captured.get()


class TestFrame:
    def test_it_begins_with_whom_it_is_about_and_the_alarm(self) -> None:
        first, *_ = drawn(EVERYTHING).splitlines()
        assert " ".join(first.split()) == "sidecar at 127.0.0.1:50051, the last 10 s ALARM: clip"
        assert "no alarm" in drawn(verdict(well()))

    @pytest.mark.parametrize(
        "words",
        [
            "clip: starved 38% of the time, mostly by image decode.",
            "alarm, for 12 s",
            "█ busy 50 %  ▓ starved 38 %  ▒ transfer 2 %  ░ batch 5 %  · no demand 5 %",
            "61.2 rows/s of at most 120.5; busy 52.6 % of the time it was asked",
            "starved by: image decode 27.5 %, throttled 10.0 %",
            "underfilled: 12.5 %",
            "try: set threads.image: 2 -> 3; 61 rows/s would be 98 rows/s: its threads are all in use",
            "note: the driver says 80% and the accounts 50%",
            "8 cores, of which a quota allows 2.5; front 0.25, workers 1.50, idle 5.75; throttled 12.5 % of the time",
            "7 items, 0.07 s of a core",
            "pid 4711",
            "11 calls; 7 items wait, workers have 5, model servers 6",
            "80.0 %, memory 62.5 %",
        ],
    )
    def test_it_tells(self, words: str) -> None:
        assert words in drawn(EVERYTHING)

    def test_stages_are_told_as_how_many_were_in_them_at_once_by_modality(self) -> None:
        lines = [line.strip() for line in drawn(EVERYTHING, width=80).splitlines()]
        begin = lines.index("stages, calls or items at once") + 1
        told = [" ".join(re.findall(r"[\w.]+", line)) for line in lines[begin : begin + 4]]
        assert told == ["audio decode 0.25", "image admit 4.00", "decode 1.50", "no media deliver 0.10"]

    @pytest.mark.parametrize("width", [40, 60, 99, 100, 200])
    def test_no_line_is_wider_than_the_terminal(self, width: int) -> None:
        assert max(map(len, drawn(EVERYTHING, width).splitlines())) <= width

    @pytest.mark.parametrize(("width", "beside"), [(99, False), (100, True)])
    def test_stages_and_lanes_stand_side_by_side_where_there_is_room(
        self, width: int, *, beside: bool
    ) -> None:
        lines = drawn(EVERYTHING, width).splitlines()
        assert any("stages," in line and "lanes," in line for line in lines) == beside

    def test_the_worst_comes_first_and_who_is_not_asked_is_one_line(self) -> None:
        told = drawn(verdict(quiet("a"), well("b"), upstream("c")))
        order = [told.index(words) for words in ("c: starved", "b: the accelerator", "a: nobody asks")]
        assert order == sorted(order)
        assert [line for line in told.splitlines() if "no demand 100" in line] == []

    def test_names_with_brackets_are_shown_as_they_are(self) -> None:
        named = upstream("[bold]clip[/nonsense]", models=["[red]"])
        assert "[bold]clip[/nonsense]: starved" in drawn(verdict(named))

    def test_of_many_workers_the_busiest_are_shown(self) -> None:
        workers = [pb.Worker(pid=100 + number, cores=number / 100) for number in range(12)]
        told = drawn(verdict(fleet=pb.Fleet(workers=workers)))
        assert "pid 111" in told
        assert "pid 103" not in told
        assert "and 4 more" in told

    def test_a_sidecar_that_has_nothing_to_tell_yet_is_drawn_too(self) -> None:
        told = drawn(pb.VerdictResponse(window_s=10))
        assert "No model server is watched" in told
        assert "no call ended" in told

    def test_a_notice_stands_below_the_header(self) -> None:
        assert drawn(EVERYTHING, notice="It is gone.").splitlines()[1].strip() == "It is gone."

    def test_states_have_colours_and_marks_of_their_own(self) -> None:
        marks = [mark for _, mark, _ in top._LOOKS.values()]
        assert len(set(marks)) == len(AcceleratorState)
        assert "\x1b[32m█" in drawn(EVERYTHING, colours=True)
        assert "\x1b[31m▓" in drawn(EVERYTHING, colours=True)

    def test_values_of_a_newer_sidecar_are_drawn_too(self) -> None:
        states = [pb.StateTime(state=99, seconds=1)]  # type: ignore[arg-type]
        lanes = [pb.Lane(cost_class=9)]
        stages = [pb.StageLoad(stage="dream", seconds=1)]
        told = drawn(verdict(well(states=states, finding=99), lanes=lanes, stages=stages))
        assert "? unknown 100 %" in told
        assert "dream" in told


class TestBar:
    @pytest.mark.parametrize("width", [1, 7, 100])
    @pytest.mark.parametrize(
        "shares", [[1.0], [1 / 3] * 3, [0.004, 0.996], [1 / 7] * 7, [0.5, 0.25, 0.125, 0.125]]
    )
    def test_its_segments_fill_it(self, width: int, shares: list[float]) -> None:
        bar = top.StateBar(dict(zip(AcceleratorState, shares, strict=False)))
        assert sum(bar.cells(width).values()) == width

    def test_it_is_empty_where_nothing_was_watched(self) -> None:
        assert sum(top.StateBar({}).cells(80).values()) == 0


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        yield scripted


async def shown(*arguments: str) -> int:
    return await asyncio.to_thread(run, ["top", *arguments], {})


class TestOnce:
    async def test_one_frame_is_printed_in_the_width_asked_for(
        self, server: ScriptedServer, capsys: Said
    ) -> None:
        server.will("Verdict", EVERYTHING)
        flags = ("--once", "--width", "72", "--window", "2.5", "--upstream", "clip")
        assert await shown(server.address, *flags) == 0
        lines = capsys.readouterr().out.splitlines()
        assert "│ clip: starved 38% of the time, mostly by image decode." in lines[2]
        assert max(map(len, lines)) <= 72
        assert server.request("Verdict") == pb.VerdictRequest(window_s=2.5, upstream="clip")

    async def test_where_there_is_no_terminal_it_is_the_same(
        self, server: ScriptedServer, capsys: Said
    ) -> None:
        server.will("Verdict", verdict(well()))
        assert await shown(server.address) == 0
        out = capsys.readouterr().out
        assert "the accelerator is the limit" in out
        assert "\x1b" not in out

    async def test_where_nobody_answers_it_is_one_line_and_status_2(self, capsys: Said) -> None:
        assert await shown("127.0.0.1:1", "--once") == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("sidecar: no sidecar answered at 127.0.0.1:1")

    def test_a_real_sidecar_is_drawn(self, capsys: Said) -> None:
        with running({"clip": "clip-vit-base-patch32"}) as sidecar:
            assert run(["top", sidecar.address, "--once", "--width", "100"], {}) == 0
        assert "No model server is watched" in capsys.readouterr().out


class Terminal:
    """A real terminal with the command in it: what it wrote, and its keys."""

    def __init__(self, master: int, slave: int) -> None:
        self._master = master
        self._slave = slave
        self._written = bytearray()
        self._news = asyncio.Event()
        self.process: asyncio.subprocess.Process
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        self._written += os.read(self._master, 65536)
        self._news.set()

    async def shows(self, words: str) -> None:
        """Returns once it has written these words; forgets what came before."""
        wanted = words.encode()
        while wanted not in self._written:
            self._news.clear()
            await self._news.wait()
        del self._written[: self._written.index(wanted)]

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def modes(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    async def ended(self) -> int:
        return await self.process.wait()


@asynccontextmanager
async def terminal(*arguments: str) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
    here = Terminal(master, slave)
    here.process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "top", *arguments),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    try:
        yield here
    finally:
        asyncio.get_running_loop().remove_reader(master)
        if here.process.returncode is None:
            here.process.kill()
            await here.process.wait()
        os.close(master)
        os.close(slave)


def saying(*messages: pb.VerdictResponse) -> list[Any]:
    """A stream of these, after which there is silence."""
    return [*(pb.WatchVerdictResponse(verdict=each) for each in messages), HANG]


class TestLive:
    async def test_it_shows_what_is_new_until_q(self, server: ScriptedServer) -> None:
        server.will("WatchVerdict", saying(verdict(upstream())))
        async with terminal(server.address, "--window", "5", "--interval", "0.5") as here:
            before = here.modes()
            await here.shows("clip: starved 38% of the time")
            assert here.modes() != before
            here.press(b"q")
            assert await here.ended() == 0
            assert here.modes() == before
        assert server.request("WatchVerdict") == pb.WatchVerdictRequest(window_s=5.0, interval_s=0.5)
        await server.left.wait()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    async def test_it_ends_well_by_a_signal(self, server: ScriptedServer, number: signal.Signals) -> None:
        server.will("WatchVerdict", saying(verdict(well())))
        async with terminal(server.address) as here:
            before = here.modes()
            await here.shows("the accelerator is the limit")
            here.process.send_signal(number)
            assert await here.ended() == 0
            assert here.modes() == before

    async def test_a_sidecar_that_restarts_is_said_to_be_gone_and_shown_again(
        self, unused_tcp_port: int
    ) -> None:
        address = f"127.0.0.1:{unused_tcp_port}"
        async with AsyncExitStack() as stack:
            async with serving(address) as first:
                first.will("WatchVerdict", saying(verdict(upstream())))
                here = await stack.enter_async_context(terminal(address))
                await here.shows("starved 38% of the time")
            await here.shows("does not answer: it restarts, or is gone.")
            await here.shows("What is shown is")
            async with serving(address) as second:
                second.will("WatchVerdict", saying(verdict(well())))
                await here.shows("the accelerator is the limit")
                here.press(b"q")
                assert await here.ended() == 0

    async def test_one_that_falls_silent_is_said_to_be_old(self, server: ScriptedServer) -> None:
        server.will("WatchVerdict", saying(verdict(well())))
        async with terminal(server.address) as here:
            await here.shows(f"Nothing was heard of {server.address} for ")
            await here.shows("the accelerator is the limit")

    async def test_what_it_is_refused_once_it_was_answered_is_shown(self, server: ScriptedServer) -> None:
        refusal = Refusal(
            grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", message="watched are: none yet"
        )
        server.will("WatchVerdict", [*saying(verdict(upstream()))[:1], refusal])
        async with terminal(server.address) as here:
            await here.shows("watched are: none yet Trying again each second.")

    @pytest.mark.parametrize("refused", [True, False])
    async def test_one_that_never_gave_a_verdict_is_one_line_and_status_2(
        self, server: ScriptedServer, *, refused: bool
    ) -> None:
        server.will("WatchVerdict", Refusal(grpc.StatusCode.UNIMPLEMENTED))
        address, words = (
            (server.address, "has no diagnostics") if refused else ("127.0.0.1:1", "no sidecar answered")
        )
        async with terminal(address) as here:
            assert await here.ended() == 2
            await here.shows(words)

"""The command line: what it answers, and its exit status."""

from __future__ import annotations

import importlib
import json
import pkgutil
import socket
from pathlib import Path

import pytest

import bench
from sidecar.cli.bench import text
from sidecar.cli.main import run

CHECKPOINT = Path(__file__).parents[2] / "testbed" / "checkpoints" / "clip-vit-base-patch32"


class TestBench:
    def test_every_name_is_a_module_that_runs(self) -> None:
        assert bench.NAMES
        for name in bench.NAMES:
            assert callable(importlib.import_module(f"bench.{name}").run)

    def test_every_module_that_runs_has_its_name_in_the_table(self) -> None:
        modules = {each.name for each in pkgutil.iter_modules(bench.__path__)} - {"__main__"}
        runs = {name for name in modules if hasattr(importlib.import_module(f"bench.{name}"), "run")}
        assert runs == set(bench.NAMES)

    @pytest.mark.parametrize("name", ["report", "nonsense", "__main__", "", "cpu.x"])
    def test_a_name_that_is_no_benchmark_is_told_with_those_that_are(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["bench", name], {}) == 2
        out, err = capsys.readouterr()
        assert (out, err) == (
            "",
            f"sidecar: there is no benchmark {name!r}; there are: {', '.join(bench.NAMES)}\n",
        )

    def test_a_result_reads_as_cases_and_targets(self) -> None:
        result = {
            "name": "cpu",
            "machine": {"cpu": "a CPU", "cores": 2},
            "cases": [{"case": "small", "ratio": 1.25, "of": "words"}],
            "targets": [
                {"target": "ratio", "figure": 1.25, "bound": "at most 2", "holds": True},
                {"target": "ratio", "figure": 1.25, "bound": "at most 1", "holds": False},
            ],
        }
        assert text(result).splitlines() == [
            "cpu on a CPU, 2 cores",
            "  small: ratio 1.25",
            "  holds: ratio: 1.25 (bound at most 2)",
            "  MISSED: ratio: 1.25 (bound at most 1)",
        ]


class TestCheck:
    def test_good_settings_are_well_and_nothing_is_bound(self, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            flags = [f"server.listen=['{address}']", f"metrics.listen={address}", "triton=127.0.0.1:9"]
            flags += [f"models.clip.recipe={CHECKPOINT}"]
            status = run(["serve", "--check", *(part for each in flags for part in ("--set", each))], {})
        assert (status, "settings and recipes are well" in capsys.readouterr().err) == (0, True)

    @pytest.mark.parametrize(
        ("flag", "words"),
        [
            ("server.listen=[]", "`server.listen` has no address"),
            ("server.listen=[nonsense]", "`server.listen` has 'nonsense'"),
            ("metrics.listen=nonsense", "`metrics.listen` has 'nonsense'"),
            ("triton=nonsense", "`triton.address` has the value 'nonsense'"),
            ("models.clip.recipe=/nowhere", "/nowhere"),
            ("sever={}", "unknown key `sever`"),
        ],
    )
    def test_wrong_settings_are_one_line_and_status_2(
        self, flag: str, words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["serve", "--check", "--set", flag], {}) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("sidecar: ")
        assert words in line

    def test_the_file_may_be_named_by_flag_or_variable_and_the_flag_wins(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "good.yaml").write_text("server: {drain_s: 1}")
        environ = {"SIDECAR_CONFIG": str(tmp_path / "nowhere.yaml")}
        assert run(["serve", "--check"], environ) == 2
        assert "nowhere.yaml cannot be read" in capsys.readouterr().err
        assert run(["serve", "--check", "--config", str(tmp_path / "good.yaml")], environ) == 0

    def test_a_slip_in_the_environment_is_one_warning(self, capsys: pytest.CaptureFixture[str]) -> None:
        environ = {"SIDECAR_LIMIT": "3", "SIDECAR_SERVER_DRAIN_S": "3", "SIDECAR_PORT": "tcp://10.0.0.1:80"}
        assert run(["serve", "--check", "--set", "log.format=json"], environ) == 0
        warning, well = map(json.loads, capsys.readouterr().err.splitlines())
        assert (warning["level"], well["level"]) == ("warning", "info")
        assert "SIDECAR_LIMIT, SIDECAR_SERVER_DRAIN_S" in warning["message"]
        assert "SIDECAR_PORT" not in warning["message"]


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["serve", "--nonsense"], ["bench"]])
def test_a_command_line_that_cannot_be_read_has_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(arguments, {})
    assert ended.value.code == 2

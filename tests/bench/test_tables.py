"""Results as tables and as a chart."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from bench import alerts_tables, hostile_tables, image_tables, sandbox_tables
from bench.chart import Group, bars
from bench.markdown import table
from bench.peers import targets
from bench.tables import (
    TABLES,
    chart,
    peers,
    peers_short,
    recipes,
    recipes_errors,
    recipes_short,
    simd,
)
from bench.tables import targets as target_table

NAMES = ("this sidecar", "A", "B")


def _case(kind: str, name: str, mode: str, per_cpu_s: float, p99_ms: float = 10) -> dict[str, Any]:
    case = {"case": f"{name}, {mode}", "kind": kind, "contender": name, "mode": mode, "variant": "two"}
    case |= {"command": "serve", "images_per_cpu_s": per_cpu_s, "images_per_s": per_cpu_s}  # type: ignore[dict-item]
    latencies = {
        f"{load}_{figure}_ms": p99_ms for load in ("common", "own") for figure in ("p50", "p99", "lag_p99")
    }
    return {**case, **latencies}


def _result() -> dict[str, Any]:
    rates = {"this sidecar": (120, 180), "A": (50, 90), "B": (40, 100)}
    p99 = {"this sidecar": 10, "A": 40, "B": 25}
    cases = [
        _case("contender", name, mode, rates[name][place], p99[name])
        for name in NAMES
        for place, mode in enumerate(("exact", "scaled"))
    ]
    cases += [_case("simd", "A", mode, 75) for mode in ("exact", "scaled")]
    return {
        "cases": cases,
        "targets": targets(cases),
        "versions": {"python": "3.11.7", "pillow": "13.0.0"},
        "machine": {"cpu": "Intel(R) CPU", "cores": 2},
        "load": {"common_per_s": 35},
        "installed": {"A": {"a": "1.0"}},
    }


def test_a_table_has_a_head_and_rows() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


class TestPeers:
    def test_targets_are_held_against_the_best_peer_of_each_figure(self) -> None:
        found = [(each["figure"], each["holds"]) for each in _result()["targets"]]
        assert found == [(2.4, True), (1.8, True), (0.4, True)]

    def test_without_peers_there_are_no_targets(self) -> None:
        assert targets([_case("contender", "this sidecar", mode, 1) for mode in ("exact", "scaled")]) == []

    def test_each_peer_has_a_row_with_the_ratio(self) -> None:
        _, _, ours, a, b, *_ = peers(_result()).splitlines()
        assert ours.startswith("| **this sidecar**, two | 120 |  | 180 |  |")
        assert a.startswith("| A, two | 50 | 2.40 | 90 | 2.00 |")
        assert b.startswith("| B, two | 40 | 3.00 | 100 | 1.80 |")

    def test_the_short_table_says_the_same(self) -> None:
        assert "| A | 50 (ours **2.40×**) | 90 (ours **2.00×**) | 40 |" in peers_short(_result())

    def test_pillow_simd_has_rows_where_it_was_there(self) -> None:
        assert "| A, two | 75 | 1.60 | 75 | 2.40 |" in simd(_result())
        without = {**_result(), "cases": [each for each in _result()["cases"] if each["kind"] != "simd"]}
        assert "could not be built" in simd(without)

    def test_targets_that_are_missed_stand_out(self) -> None:
        missed = [{"target": "t", "figure": 1.0, "bound": "at least 2", "holds": False}]
        assert "| t | at least 2 | 1 | **no** |" in target_table({**_result(), "targets": missed})

    def test_the_chart_is_drawn_from_them(self) -> None:
        drawn = ET.fromstring(chart(_result()))
        # Two bars for each, two more for the one with pillow-simd, and four squares of the legend.
        assert len(drawn.findall("{*}rect")) == 2 * 3 + 2 + 4


class TestChart:
    def test_bars_are_as_long_as_their_values(self) -> None:
        drawn = ET.fromstring(bars("title & more", ["one"], [Group("a", [10.0]), Group("b <", [5.0])]))
        _, first, second = (float(each.get("width", "")) for each in drawn.findall("{*}rect"))
        assert first == 2 * second
        assert drawn.findtext("{*}title") == "title & more"

    def test_what_was_not_measured_has_no_bar(self) -> None:
        drawn = ET.fromstring(bars("t", ["one", "two"], [Group("a", [10.0, None])]))
        assert len(drawn.findall("{*}rect")) == 2 + 1


def test_every_mark_of_the_docs_has_a_result_that_exists() -> None:
    assert {result for result, _ in TABLES.values()} == {
        "efficiency",
        "peers",
        "recipes",
        "overload",
        "verdict",
        "plan",
        "tuner",
        "drop_in",
        "alerts",
        "sandbox",
        "hostile",
        "image",
    }


class TestRecipes:
    def _result(self, **further: float) -> dict[str, Any]:
        picture = {"case": "JPEG to CLIP", "kind": "pictures", "rounds": 7, "exact, Pillow wheel, ms": 8.04}
        ratios = {"PIL backend ÷ exact, Pillow wheel": 5.02}
        return _result() | {
            "cases": [
                {**picture, "PIL backend, ms": 40.4, "ratios": ratios, **further},
                {"case": "fast beside exact, JPEG to CLIP", "kind": "error", "pictures": 8, "differ": 0},
            ]
        }

    def test_a_picture_has_its_times_and_ratios(self) -> None:
        row = recipes(self._result(**{"fast, Pillow wheel, ms": 5})).splitlines()[2]
        assert row == "| JPEG to CLIP | **8.0** | 40.4 | 5.0 | – | – | – | – | **5.0** | – |"

    def test_what_was_not_measured_is_a_dash(self) -> None:
        row = recipes_short(self._result()).splitlines()[2]
        assert row == "| JPEG to CLIP | **8.0** | 40.4 (ours **5.0×** as fast) | – | – |"

    def test_the_rounds_are_told(self) -> None:
        assert "medians of seven alternating rounds" in recipes(self._result())
        assert "medians of five alternating rounds" in peers_short(_result())

    def test_where_nothing_differs_no_error_is_told(self) -> None:
        assert recipes_errors(self._result()).splitlines()[2] == "| JPEG to CLIP | 8 | 0 | 0 | – | – |"


class TestImage:
    def _result(self) -> dict[str, Any]:
        cases = [
            {"case": "size", "bytes": 836_895_551, "base_bytes": 201_181_368},
            {"case": "cold start", "seconds": 4.891, "cpu_s": 5.2},
        ]
        targets = [
            {"target": "it says hello", "figure": "hello | world", "bound": "holds", "holds": True},
            {"target": "it is small", "figure": "837 MB", "bound": "holds", "holds": False},
        ]
        return _result() | {"cases": cases, "targets": targets}

    def test_figures_come_before_checks(self) -> None:
        assert image_tables.found(self._result()).splitlines()[2:6] == [
            "| size | 837 MB, of which the base is 201 MB |  |",
            "| cold start | 4.89 s, 5.20 s of CPU |  |",
            "| it says hello | hello &#124; world | yes |",
            "| it is small | 837 MB | **no** |",
        ]

    def test_a_base_that_the_engine_does_not_tell_is_left_out(self) -> None:
        result = self._result() | {"cases": [{"case": "size", "bytes": 836_895_551}]}
        assert image_tables.rows(result)[0] == ("size", "837 MB", "")

    def test_those_that_hold_are_counted(self) -> None:
        assert "1 of 2 checks hold. On 2 cores" in image_tables.found(self._result())


class TestAlerts:
    def _result(self) -> dict[str, Any]:
        fine = {"false": 0, "wavered": 0}
        cases = [
            {"case": "a quota", "fired_s": 16.7, "cleared_s": 12.4, **fine},
            {"case": "demand", "fired_s": 15.0, "cleared_s": 12.6, **fine},
            {"case": "a quota", "fired_s": 17.0, "cleared_s": 11.0, "false": 1, "wavered": 1},
        ]
        return {"cases": cases, "stage": {"scraped_every_s": 5}}

    def test_a_fault_has_the_latest_of_its_rounds(self) -> None:
        _, _, *rows = alerts_tables.rings(self._result()).splitlines()
        assert rows == ["| a quota | 17.0 | 12.4 | 1 | 1 |", "| demand | 15.0 | 12.6 | 0 | 0 |"]

    def test_a_fault_that_never_had_a_calm_beginning_has_no_times(self) -> None:
        result = self._result() | {"cases": [{"case": "a quota", "false": 3}]}
        assert alerts_tables.rings(result).splitlines()[2] == "| a quota | – | – | 3 | 0 |"

    def test_the_short_line_has_the_latest_of_all(self) -> None:
        assert "every 5 s, rings within 17.0 s" in alerts_tables.short(self._result())
        assert "over within 12.6 s" in alerts_tables.short(self._result())


class TestSandbox:
    def _result(self) -> dict[str, Any]:
        def case(kind: str, lost: float, added: float) -> dict[str, Any]:
            return {
                "case": f"{kind}, Preprocess",
                "throughput_lost": lost,
                "throughput_lost_middle_half": [lost - 0.01, lost + 0.01],
                "cpu_added": added,
                "cpu_added_middle_half": [added - 0.02, added + 0.02],
                "calls_per_s": 588.1,
                "cpu_ms": 2.258,
                "layers": ["landlock", "seccomp"],
            }

        return {"cases": [case("icon", 0.003, 0.009), case("audio", -0.014, 0.016)]}

    def test_a_kind_has_its_costs_and_how_far_the_middle_half_reaches(self) -> None:
        row = sandbox_tables.costs(self._result()).splitlines()[2]
        assert row == "| icon, Preprocess | **+0.3** (-0.7 to +1.3) | **+0.9** (-1.1 to +2.9) | 588 | 2.26 |"

    def test_the_layers_that_were_there_are_told_once(self) -> None:
        assert sandbox_tables.costs(self._result()).endswith("\n\nIts layers here: landlock, seccomp.")

    def test_the_short_line_has_the_worst_of_each(self) -> None:
        short = sandbox_tables.short(self._result())
        assert "the worst of icon, audio: calls a second -0.3%, CPU time of a call +1.6%." in short


class TestHostile:
    def _result(self) -> dict[str, Any]:
        bomb = {"kind": "bomb", "refused": True}
        mutants = {"kind": "mutants", "format": "png", "mutants": 100_000, "worst_cpu_ms": 45.6}
        ends = {"decoded": 60_000, "unsupported": 1, "corrupt": 39_000, "too_large": 990, "refused": 8}
        harm = {"outside": 0, "crashes": 1, "hangs": 0, "over_memory": 2}
        cases = [
            {**bomb, "case": "slow.png", "cpu_ms": 20.82, "grown_mib": 0.1},
            {**bomb, "case": "big.png", "cpu_ms": 0.1, "grown_mib": 3.16, "refused": False},
            {"case": "samples in a file.m4a", "kind": "inert", "cpu_ms": 99.0},
            {**mutants, **ends, **harm, "case": "mutants of png"},
            {"case": "a real server", "kind": "served", "decoded": 5},
        ]
        return {"cases": cases}

    def test_a_format_has_a_row_with_what_became_of_its_mutants(self) -> None:
        head, _, row, *_ = hostile_tables.fates(self._result()).splitlines()
        assert head.startswith("| format | mutants | decoded | unsupported | corrupt | too large |")
        assert row == "| png | 100,000 | 60,000 | 1 | 39,000 | 990 | 8 | 0 | 1 | 0 | 2 | 46 |"

    def test_a_line_tells_of_the_bombs(self) -> None:
        assert hostile_tables.fates(self._result()).splitlines()[-1] == (
            "1 of 2 bombs were refused before decoding, the slowest after 20.8 ms of CPU (slow.png); the process "
            "grew by 3.2 MiB at the most (big.png)."
        )

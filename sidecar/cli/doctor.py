"""`sidecar doctor`: asks a running sidecar whether the accelerator was kept waiting, by what, and what would help.

It asks once, as any client may, says it in plain words or as JSON, and ends with a status that scripts can go by. It
looks at nothing but the answer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Final

from inference_client import (
    Client,
    Diagnosis,
    Finding,
    SelfCheck,
    SidecarError,
    StarvationLevel,
    UpstreamVerdict,
)
from inference_client.connection import DEFAULT_ADDRESS
from sidecar.cli import words
from sidecar.cli.identity import add_identity, identity

WELL: Final = 0
WAITS: Final = 1
NO_ANSWER: Final = 2
HANGS: Final = 3

_STATUSES: Final = f"""exit status:
  {WELL}  all is well, or nobody asks
  {WAITS}  a model server is starved or waits for tensors on their way, 5 % of the time or more, or its alarm is on
  {NO_ANSWER}  the command line is wrong, no sidecar answers there, or it has no diagnostics or cannot do what is asked
  {HANGS}  a model server hangs: it has work and gives no sign of life"""
_WINDOW_S: Final = 10.0
# For a verdict, which takes milliseconds; and for a self-check of two seconds, which may wait ten for a request.
_PATIENCE_S: Final = 10.0
_CHECK_PATIENCE_S: Final = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `sidecar doctor`, and says how it ends."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _STATUSES
    add_whom(parser)
    parser.add_argument(
        "--window",
        type=float,
        default=_WINDOW_S,
        metavar="SECONDS",
        help=f"over how many of the last seconds to look, up to 60 (default: {_WINDOW_S:g})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--self-check",
        metavar="MODEL",
        help="also replay the next request for this served model, some seconds long, to see by a second way "
        "whether the figures are right; it loads the accelerator",
    )


def add_whom(parser: argparse.ArgumentParser) -> None:
    """Adds whom to ask about what."""
    parser.add_argument(
        "address",
        nargs="?",
        default=DEFAULT_ADDRESS,
        metavar="ADDRESS",
        help=f"where the sidecar listens (`server.listen`): host:port or unix:path (default: {DEFAULT_ADDRESS})",
    )
    parser.add_argument(
        "--upstream",
        default="",
        metavar="NAME",
        help="tell of this model of the model server alone, by its name there (default: of all)",
    )
    add_identity(parser)


def doctor(options: argparse.Namespace) -> int:
    """Asks, tells and returns the exit status."""
    checked, trouble = None, ""
    with Client(options.address, timeout=_PATIENCE_S, **identity(options)) as client:
        try:
            diagnosis = client.verdict(options.upstream, options.window)
        except SidecarError as error:
            _complain(words.trouble(error, options.address, _PATIENCE_S))
            return NO_ANSWER
        try:
            if options.self_check is not None:
                checked = client.self_check(options.self_check, timeout=_CHECK_PATIENCE_S)
        except SidecarError as error:
            trouble = words.trouble(error, options.address, _CHECK_PATIENCE_S)
    status = NO_ANSWER if trouble else status_of(diagnosis)
    text = (
        json.dumps(_as_json(diagnosis, checked, options.address, status), indent=2)
        if options.json
        else "\n".join(report(diagnosis, checked, options.address))
    )
    print(text)  # noqa: T201 - a command's output
    if trouble:
        _complain(f"no self-check: {trouble}")
    return status


def status_of(diagnosis: Diagnosis) -> int:
    """The exit status that a verdict stands for: the worst of its upstreams'."""
    if any(each.finding is Finding.HUNG for each in diagnosis.upstreams):
        return HANGS
    return WAITS if any(_waits(each) for each in diagnosis.upstreams) else WELL


def _waits(verdict: UpstreamVerdict) -> bool:
    return (
        verdict.alarm
        or verdict.finding is Finding.TRANSPORT
        or verdict.level in {StarvationLevel.MODERATE, StarvationLevel.SEVERE}
    )


def report(diagnosis: Diagnosis, checked: SelfCheck | None, address: str) -> Iterator[str]:
    """The verdict for people, line by line."""
    yield words.title(diagnosis, address)
    yield ""
    for verdict in diagnosis.upstreams:
        yield from _upstream(verdict)
        yield ""
    if not diagnosis.upstreams:
        yield from (words.NOTHING_WATCHED, "")
    if checked is not None:
        yield from (f"self-check: {checked}", "")
    yield f"work: {words.fleet_words(diagnosis.fleet)}"
    if diagnosis.fleet.sandbox:
        yield f"sandbox: {diagnosis.fleet.sandbox}"
    if diagnosis.machine is not None:
        yield f"machine: {words.machine_words(diagnosis.machine)}"
    yield from map(words.gpu_words, diagnosis.gpus)


def _upstream(verdict: UpstreamVerdict) -> Iterator[str]:
    yield verdict.summary
    if verdict.alarm:
        yield f"  ALARM, for {words.seconds(verdict.alarm_for_s)}"
    if verdict.models:
        yield f"  asked by: {', '.join(verdict.models)}"
    yield f"  {words.rates(verdict)}"
    yield "  its time:"
    shares = verdict.shares
    for state, meaning in words.STATES.items():
        if state in shares:
            yield f"    {words.percent(shares[state]):>7}  {state:<11}  {meaning}"
    if verdict.underfilled:
        yield f"    {words.percent(verdict.underfilled):>7}  lost in batches with room for rows in preprocessing"
    if causes := words.starved_by(verdict):
        yield "  starved by:"
        yield from (f"    {words.percent(share):>7}  {cause}" for cause, share in causes)
    if verdict.advice:
        yield "  what would help:"
        yield from (f"    {advice}" for advice in verdict.advice)
    if verdict.note:
        yield f"  note: {verdict.note}"
    if not verdict.counted and verdict.utilisation is not None:
        yield "  note: the model server does not count; its executions are inferred from its answers"


def _as_json(diagnosis: Diagnosis, checked: SelfCheck | None, address: str, status: int) -> dict[str, object]:
    """What the report tells, by the names of `inference_client`."""
    return {
        "address": address,
        "status": status,
        "verdict": dataclasses.asdict(diagnosis),
        "self_check": None if checked is None else dataclasses.asdict(checked),
    }


def _complain(line: str) -> None:
    print(f"sidecar: {line}", file=sys.stderr)  # noqa: T201 - a command talks to its terminal

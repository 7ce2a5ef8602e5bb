"""How the server logs: one line an event, for people or as JSON for machines.

Media and tensors are never logged, nor is anything of a request but its ids and names.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from annotated_types import Gt

from sidecar.observe.journal import Passage


@dataclass(frozen=True, slots=True)
class LogConfig:
    """`level` is a standard level's name; `format` is "text" for people or "json" for machines.

    `requests`: a line a request, "none", "all", or "sampled": every one that failed, and of the others as many as
    `requests_per_s` allows, of which each line says how many it stands for.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    requests: Literal["none", "sampled", "all"] = "none"
    requests_per_s: Annotated[float, Gt(0)] = 10.0


class UtcFormatter(logging.Formatter):
    """Times as RFC 3339 in UTC, to the millisecond: 2026-11-21T08:00:56.123Z."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - logging's own signature
        """The record's time. Nobody asks for another form, so `datefmt` is not looked at."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return at.replace("+00:00", "Z")


class JsonFormatter(UtcFormatter):
    """A record as one JSON object a line: time (RFC 3339, UTC), level, logger, message, the record's own fields
    (`extra={"fields": ...}`), trace.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(config: LogConfig) -> None:
    """Points the root logger at standard error in the chosen form."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter()
        if config.format == "json"
        else UtcFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())


class RequestLog:
    """Writes a line a request, after it has ended. Failed ones are never left out, nor counted against the rest."""

    def __init__(self, config: LogConfig) -> None:
        self._config = config
        self._log = logging.getLogger("sidecar.requests")
        if config.requests != "none":
            # Asked for by name, and so told whatever the level of the rest.
            self._log.setLevel(logging.INFO)
        # Full at first: it was last filled an eternity ago.
        self._left, self._filled_s = 0.0, -math.inf
        self._skipped = 0

    def record(self, ended: Iterable[Passage], now_s: float | None = None) -> None:
        """Writes the lines of calls that ended; `now_s` is by the monotonic clock, None for now."""
        if self._config.requests == "none":
            return
        if now_s is None:
            now_s = time.monotonic()
        # A bucket that holds a second's worth, so that a quiet server logs all and a busy one a steady part.
        most = max(1.0, self._config.requests_per_s)
        self._left = min(most, self._left + (now_s - self._filled_s) * self._config.requests_per_s)
        self._filled_s = now_s
        for passage in ended:
            if passage.reason == "OK" and self._config.requests == "sampled":
                if self._left < 1:
                    self._skipped += 1
                    continue
                self._left -= 1
            self._write(passage)

    def _write(self, passage: Passage) -> None:
        stands_for, self._skipped = (1 + self._skipped, 0) if passage.reason == "OK" else (1, self._skipped)
        fields = request_fields(passage)
        if stands_for > 1:
            fields["stands_for"] = stands_for
        self._log.info(
            "%s of %s: %s in %.1f ms%s",
            passage.verb,
            passage.model,
            passage.reason,
            fields["total_ms"],
            f" (stands for {stands_for})" if stands_for > 1 else "",
            extra={"fields": fields},
        )


def request_fields(passage: Passage) -> dict[str, Any]:
    """What a line says of a request: names, counts and milliseconds a stage; nothing of its media."""
    spent = passage.timeline.spent
    fields: dict[str, Any] = {
        "verb": passage.verb,
        "model": passage.model,
        "reason": passage.reason,
        "items": len(passage.items),
        "total_ms": round((passage.ended_ns - passage.timeline.start_ns) / 1e6, 3),
        "cpu_ms": round(sum(item.cpu_ms for item in passage.items), 3),
        "stages_ms": {stage.value: round(nanoseconds / 1e6, 3) for stage, nanoseconds in spent.items()},
    }
    if failed := [item.problem_reason for item in passage.items if item.problem_reason]:
        fields["failed_items"] = failed
    if passage.request_id:
        fields["request_id"] = passage.request_id
    if passage.tenant:
        fields["tenant"] = passage.tenant
    if passage.trace is not None:
        fields["trace_id"] = passage.trace.trace_hex
    return fields

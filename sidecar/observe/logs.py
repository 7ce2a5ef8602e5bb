"""How the server logs: one line an event, for people or as JSON for machines.

Media and tensors are never logged, nor is anything of a request but its ids and names.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal


@dataclass(frozen=True, slots=True)
class LogConfig:
    """`level` is a standard level's name; `format` is "text" for people or "json" for machines."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class UtcFormatter(logging.Formatter):
    """Times as RFC 3339 in UTC, to the millisecond: 2026-11-21T08:00:56.123Z."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - logging's own signature
        """The record's time. Nobody asks for another form, so `datefmt` is not looked at."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return time.replace("+00:00", "Z")


class JsonFormatter(UtcFormatter):
    """A record as one JSON object a line: time (RFC 3339, UTC), level, logger, message, trace."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
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

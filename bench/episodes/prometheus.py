"""A real Prometheus that scrapes one address and looks at the rules that the chart ships, as they are.

It is Debian's, unpacked by scripts/prometheus.sh; its data lies in a folder that is removed with it. Asked over its own
HTTP API, on loopback.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import PROJECT, free_ports, says_yes, server
from testbed.install import CannotInstall

SCRAPE_S = 5
"""As often as the chart's monitors scrape, and as its quick group of rules is looked at."""
_LOOK_S = 0.2
_ASK_S = 10.0


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that runs, on this loopback port."""

    port: int

    def ask(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON values
        """What its API says. Raises ValueError with its words where it refuses."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_ASK_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from None

    def series(self, query: str) -> Sequence[Any]:
        """What a query gives now. Raises ValueError where it is refused."""
        found: Sequence[Any] = self.ask("query", query=query)["result"]
        return found

    def firing(self) -> set[tuple[str, str]]:
        """The alerts that fire now: their names, and the upstreams that they are for."""
        told = self.ask("alerts")["alerts"]
        return {
            (each["labels"]["alertname"], each["labels"].get("upstream", ""))
            for each in told
            if each["state"] == "firing"
        }

    async def until(self, holds: Callable[[set[tuple[str, str]]], bool], within_s: float) -> float | None:
        """Seconds until something holds of the alerts that fire; None where it did not in time."""
        begun = time.monotonic()
        while time.monotonic() - begun < within_s:
            if holds(await asyncio.to_thread(self.firing)):
                return time.monotonic() - begun
            await asyncio.sleep(_LOOK_S)
        return None


@contextmanager
def prometheus(target: str, rules: Sequence[Path]) -> Iterator[Prometheus]:
    """One that scrapes `target`, "host:port". Raises CannotInstall where none can be had."""
    script = PROJECT / "scripts" / "prometheus.sh"
    found = subprocess.run([script], capture_output=True, text=True, check=False)  # noqa: S603 - the project's own
    if found.returncode:
        raise CannotInstall(found.stderr.strip())
    (port,) = free_ports(1)
    config = {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [
            {
                "job_name": "sidecar",
                "static_configs": [{"targets": [target], "labels": {"namespace": "bench", "pod": "near"}}],
            }
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prometheus.yml"
        file.write_text(json.dumps(config))
        command: list[str | Path] = [
            Path(found.stdout.strip()) / "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
        with server(command, lambda: says_yes(port, "/-/ready")):
            yield Prometheus(port)

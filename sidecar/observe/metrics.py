"""The Prometheus metrics, and the only place that knows Prometheus.

Counted on the path's thread in a few microseconds a request; read by whoever scrapes. It never raises
into the path.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar.addresses import is_host_port
from sidecar.errors import SettingsError
from sidecar.media import Modality
from sidecar.observe.journal import ObservedItem
from sidecar.observe.pages import Page, serve_pages
from sidecar.observe.timings import ModelTimes, Stage, Timings
from sidecar.observe.trace_context import TraceContext

# From an icon's decode to a long video's, in seconds: a factor of 2 to 2.5 a step, so that a
# percentile read from the buckets is right to that factor.
_BUCKETS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)

# Series of a metric that are kept at hand: those of a hundred models.
_MOST_SERIES = 1024

# Stages that belong to the call and not to an item.
_OF_THE_CALL = (Stage.RECEIVE, Stage.DELIVER, Stage.RESPOND)
_OF_AN_ITEM = tuple(stage for stage in Stage if stage not in _OF_THE_CALL)


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """`listen`: "host:port" where /metrics is served; empty serves it nowhere. `status`: whether the status page is
    there too, which shows what Diagnostics tell, to whoever can connect.
    """

    listen: str = "127.0.0.1:9400"
    status: bool = True

    def __post_init__(self) -> None:
        if self.listen and not is_host_port(self.listen):
            raise SettingsError(
                f"`metrics.listen` has {self.listen!r}: allowed are host:port, and an empty text for no metrics",
                key="metrics.listen",
                value=self.listen,
                allowed="host:port or an empty text",
            )


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of a watched metric with its labels; `counts` says that it only grows."""

    name: str
    help_text: str
    labels: Mapping[str, str]
    value: float
    counts: bool


@dataclass(slots=True)
class Outcome:
    """How a call ended: an error's reason, or OK."""

    reason: str = "INTERNAL_ERROR"


class Metrics:
    """All metrics of a server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._stage_seconds = _at_hand(
            Histogram(
                "sidecar_stage_duration_seconds",
                "Time an item (probe to pack) or a call (receive, deliver, respond) spent in a stage.",
                ("stage", "modality", "model"),
                buckets=_BUCKETS,
                registry=self.registry,
            )
        )
        self._model_seconds = _at_hand(
            Histogram(
                "sidecar_model_duration_seconds",
                "What models tell of their own time: in their queue, to the first token, to the last.",
                ("part", "model"),
                buckets=_BUCKETS,
                registry=self.registry,
            )
        )
        self._gap_seconds = _at_hand(
            Histogram(
                "sidecar_gap_duration_seconds",
                "Time of a call that no stage accounts for.",
                ("model",),
                buckets=_BUCKETS,
                registry=self.registry,
            )
        )
        self._cpu_seconds = _at_hand(
            Counter(
                "sidecar_worker_cpu_seconds_total",
                "CPU time that workers spent on items.",
                ("modality", "model"),
                registry=self.registry,
            )
        )
        self._items = _at_hand(
            Counter(
                "sidecar_items_total",
                "Media items by how they ended: OK, or an error's reason.",
                ("modality", "model", "reason"),
                registry=self.registry,
            )
        )
        self._calls = _at_hand(
            Counter(
                "sidecar_calls_total",
                "Calls by method and how they ended: OK, or an error's reason.",
                ("method", "reason"),
                registry=self.registry,
            )
        )
        self._call_seconds = _at_hand(
            Histogram(
                "sidecar_call_duration_seconds",
                "Time of a call from its arrival to its end.",
                ("method",),
                buckets=_BUCKETS,
                registry=self.registry,
            )
        )

    @contextmanager
    def call(self, method: str) -> Iterator[Outcome]:
        """Counts a call; the block sets how it ended."""
        outcome = Outcome()
        begun = time.monotonic_ns()
        try:
            yield outcome
        finally:
            self._calls(method, outcome.reason).inc()
            self._call_seconds(method).observe((time.monotonic_ns() - begun) / 1e9)

    def stages(
        self,
        model: str,
        modality: Modality | None,
        items: Iterable[ObservedItem],
        times: Timings,
        trace: TraceContext | None = None,
    ) -> None:
        """Counts an ended call's stage times: an item's stages by item, the call's own once.

        `modality` is what the model takes. An item without times did not end: its call was given up. A call that
        is part of a kept `trace` is an exemplar of its buckets, which OpenMetrics tells.
        """
        exemplar = {"trace_id": trace.trace_hex} if trace is not None and trace.sampled else None
        takes = modality.value if modality else "none"
        for item in items:
            reason = item.problem_reason or ("OK" if item.times is not None else "CALL_CANCELLED")
            self._items(takes, model, reason).inc()
            self._cpu_seconds(takes, model).inc(item.cpu_ms / 1e3)
            if item.times is not None:
                self._observe(item.times, _OF_AN_ITEM, takes, model, exemplar)
        self._observe(times, _OF_THE_CALL, takes, model, exemplar)
        self._gap_seconds(model).observe(times.gap_ns / 1e9)

    def model_times(self, model: str, times: ModelTimes) -> None:
        """Counts what a model told of its own time for one call."""
        for name, spent in asdict(times).items():
            self._model_seconds(name.removesuffix("_ns"), model).observe(spent / 1e9)

    def _observe(
        self,
        times: Timings,
        stages: tuple[Stage, ...],
        modality: str,
        model: str,
        exemplar: dict[str, str] | None,
    ) -> None:
        for stage in stages:
            if stage in times.stages:
                series = self._stage_seconds(stage.value, modality, model)
                series.observe(times.stages[stage] / 1e9, exemplar)

    def watch(self, read: Callable[[], Iterable[Reading]]) -> None:
        """Adds metrics that are read whenever somebody scrapes, on the scraper's thread."""
        self.registry.register(_Watched(read))

    @contextmanager
    def served(self, config: MetricsConfig, pages: Callable[[str], Page | None]) -> Iterator[str]:
        """Serves /metrics, and other pages by their paths, on threads of their own; gives the address, empty for none.

        Raises SettingsError.
        """
        if not config.listen:
            yield ""
            return
        host, _, port = config.listen.rpartition(":")
        try:
            server = serve_pages(host.strip("[]"), int(port), make_wsgi_app(self.registry), pages)
        except (OSError, ValueError, OverflowError) as error:
            raise SettingsError(
                f"`metrics.listen` has {config.listen!r}, which cannot be bound ({error}): "
                'give a free "host:port", or an empty text for no metrics',
                key="metrics.listen",
                value=config.listen,
            ) from error
        with server as served_port:
            yield f"{host}:{served_port}"


_Kind = TypeVar("_Kind", Counter, Histogram)


def _at_hand(metric: _Kind) -> Callable[..., _Kind]:
    """A metric's series by its labels' values. Prometheus's own way takes 1.6 µs, some twelve times a call."""
    return lru_cache(_MOST_SERIES)(metric.labels)


class _Watched(Collector):
    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for reading in self._read():
            family = families.get(reading.name)
            if family is None:
                kind: type[CounterMetricFamily | GaugeMetricFamily] = (
                    CounterMetricFamily if reading.counts else GaugeMetricFamily
                )
                family = families[reading.name] = kind(
                    reading.name, reading.help_text, labels=list(reading.labels) or None
                )
            family.add_metric(list(reading.labels.values()), reading.value)
        yield from families.values()

"""Counters and histograms as plain numbers, which a scrape reads.

Those of the client library take a lock and several calls per event, about as long as a look-up in the
journal. Our metrics are changed by one thread only, so they need no lock; a scrape in another thread may
see a histogram's count before its sum.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from awakeables.telemetry import vocabulary

C = TypeVar("C")


class Counter:
    """A counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, count: int = 1) -> None:
        """Add to the counter."""
        self.value += count


class Histogram:
    """A histogram with fixed upper bounds."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> Iterator[tuple[str, int]]:
        """The cumulative count for each bound, as in the text format."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        return zip(bounds, accumulate(self.counts), strict=True)


class Family(Collector, Generic[C]):
    """A metric with labels: one instrument per combination of label values in use."""

    def __init__(
        self,
        metric: vocabulary.Metric,
        registry: CollectorRegistry,
        make: Callable[[], C],
        show: Callable[[vocabulary.Metric, Iterable[tuple[tuple[str, ...], C]]], Metric],
    ) -> None:
        """Register a metric.

        Args:
            metric: The metric's name and labels.
            registry: The registry that collects it.
            make: Makes an instrument.
            show: Converts all instruments for a scrape.
        """
        self._metric = metric
        self._make = make
        self._show = show
        self._instruments: dict[tuple[str, ...], C] = {}
        registry.register(self)

    def labels(self, *values: str) -> C:
        """The instrument for these values. Look it up once and keep it where possible."""
        assert len(values) == len(self._metric.labels), self._metric.name
        instrument = self._instruments.get(values)
        if instrument is None:
            instrument = self._instruments[values] = self._make()
        return instrument

    def describe(self) -> Iterable[Metric]:
        """Describe the metric to the registry, which rejects duplicate names."""
        return [self._show(self._metric, ())]

    def collect(self) -> Iterable[Metric]:
        """Collect for a scrape; other threads may add labels meanwhile."""
        return [self._show(self._metric, list(self._instruments.items()))]


def counters(metric: vocabulary.Metric, registry: CollectorRegistry) -> Family[Counter]:
    """Register a counter with labels."""
    return Family(metric, registry, Counter, _show_counters)


def histograms(metric: vocabulary.Metric, registry: CollectorRegistry) -> Family[Histogram]:
    """Register a histogram with labels."""
    return Family(metric, registry, lambda: Histogram(metric.buckets), _show_histograms)


def _show_counters(metric: vocabulary.Metric, counted: Iterable[tuple[tuple[str, ...], Counter]]) -> Metric:
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    for values, counter in counted:
        family.add_metric(values, counter.value)
    return family


def _show_histograms(
    metric: vocabulary.Metric, counted: Iterable[tuple[tuple[str, ...], Histogram]]
) -> Metric:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for values, histogram in counted:
        family.add_metric(values, list(histogram.buckets()), histogram.sum)
    return family

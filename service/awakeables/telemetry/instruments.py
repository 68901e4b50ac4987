"""Counters and histograms in plain numbers, which a scrape reads.

Those of the client library take a lock and several calls for each event, about as long as a look-up in
the journal. A metric of ours is changed by one thread alone, so it needs no lock; a scrape in another
thread may see a histogram's count before its sum.
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
    """How often something happened."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, count: int = 1) -> None:
        """Count it."""
        self.value += count


class Histogram:
    """How often values were at most so large, for some bounds."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> Iterator[tuple[str, int]]:
        """The number of values up to each bound, as the text format has them."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        return zip(bounds, accumulate(self.counts), strict=True)


class Family(Collector, Generic[C]):
    """A metric with labels: an instrument for each combination of their values that was asked for."""

    def __init__(
        self,
        metric: vocabulary.Metric,
        registry: CollectorRegistry,
        make: Callable[[], C],
        show: Callable[[vocabulary.Metric, Iterable[tuple[tuple[str, ...], C]]], Metric],
    ) -> None:
        """Register a metric.

        Args:
            metric: What it is called, and its labels.
            registry: Who asks for it.
            make: Makes an instrument.
            show: Shows all of them to a scrape.
        """
        self._metric = metric
        self._make = make
        self._show = show
        self._instruments: dict[tuple[str, ...], C] = {}
        registry.register(self)

    def labels(self, *values: str) -> C:
        """The instrument for these values; look it up once where that is possible."""
        assert len(values) == len(self._metric.labels), self._metric.name
        instrument = self._instruments.get(values)
        if instrument is None:
            instrument = self._instruments[values] = self._make()
        return instrument

    def describe(self) -> Iterable[Metric]:
        """For the registry, which refuses a name that it has."""
        return [self._show(self._metric, ())]

    def collect(self) -> Iterable[Metric]:
        """For a scrape; in another thread labels may be added meanwhile."""
        return [self._show(self._metric, list(self._instruments.items()))]


def counters(metric: vocabulary.Metric, registry: CollectorRegistry) -> Family[Counter]:
    """A counter for each combination of labels."""
    return Family(metric, registry, Counter, _show_counters)


def histograms(metric: vocabulary.Metric, registry: CollectorRegistry) -> Family[Histogram]:
    """A histogram for each combination of labels."""
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

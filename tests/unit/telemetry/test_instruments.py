"""Counters and histograms of ours show what the client library's show."""

from __future__ import annotations

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics

from awakeables.telemetry.instruments import counters, histograms
from awakeables.telemetry.vocabulary import Metric

COUNTED = Metric(name="served", kind="counter", help="Requests.", labels=("route", "status"), runbook="")
ALONE = Metric(name="failures", kind="counter", help="Failures.", runbook="")
TOOK = Metric(
    name="took_seconds", kind="histogram", help="How long.", labels=("route",), buckets=(0.1, 1.0), runbook=""
)
VALUES = (0.05, 0.1, 0.100001, 0.5, 1.0, 1.5, 300.0)


def lines(registry: CollectorRegistry) -> list[str]:
    """What a scrape gets, but when each series began."""
    text = open_metrics(registry).decode()  # type: ignore[no-untyped-call]
    text += prometheus_client.generate_latest(registry).decode()
    return [line for line in text.splitlines() if "_created" not in line]


def test_a_scrape_gets_what_it_would_get_of_the_client_library() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    served = counters(COUNTED, ours)
    failures = counters(ALONE, ours).labels()
    took = histograms(TOOK, ours)
    their_served = prometheus_client.Counter("served", "Requests.", ("route", "status"), registry=theirs)
    their_failures = prometheus_client.Counter("failures", "Failures.", registry=theirs)
    their_took = prometheus_client.Histogram(
        "took_seconds", "How long.", ("route",), buckets=(0.1, 1.0), registry=theirs
    )
    assert lines(ours) == lines(theirs)
    for route, status, count in (("/a", "200", 3), ("/b", "500", 1), ("/a", "200", 2), ("/c", "404", 0)):
        served.labels(route, status).inc(count)
        their_served.labels(route, status).inc(count)
    failures.inc()
    their_failures.inc()
    for value in VALUES:
        took.labels("/a").observe(value)
        their_took.labels("/a").observe(value)
    assert lines(ours) == lines(theirs)
    assert ours.get_sample_value("took_seconds_count", {"route": "/a"}) == len(VALUES)


def test_a_name_is_registered_once() -> None:
    registry = CollectorRegistry()
    counters(ALONE, registry)
    with pytest.raises(ValueError, match="Duplicated"):
        counters(ALONE, registry)

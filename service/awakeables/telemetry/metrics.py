"""The metrics of the service and of a worker.

Each engine has its own registry, because tests run several engines in one process. Instruments are looked
up by label once and kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder

from awakeables.core.awakeables import VERDICTS, VerdictKind
from awakeables.core.invocations import BackOff, Continue, End, Next, Pause, Suspend
from awakeables.core.outcomes import Cancellation, Resolution
from awakeables.telemetry import vocabulary as words
from awakeables.telemetry.instruments import Counter, Family, Histogram, counters, histograms
from awakeables.telemetry.vocabulary import AttemptEnd, CompletionOrigin, Metric, TaskEnd


class Metrics:
    """The metrics of the service.

    Attributes:
        registry: Collects them for a scrape.
    """

    def __init__(  # noqa: PLR0915 - a line per metric
        self, registry: CollectorRegistry | None = None
    ) -> None:
        """Register all metrics; a registry accepts them only once."""
        self.registry = registry or CollectorRegistry()
        make = _Maker(self.registry)
        self._build_info = make.gauge(words.BUILD_INFO)
        self.ready = make.gauge(words.READY)
        self.problems = make.gauge(words.PROBLEMS)
        self.pending = make.gauge(words.PENDING)
        self.pending_oldest_s = make.gauge(words.PENDING_OLDEST)
        self.invocations = make.gauge(words.INVOCATIONS)
        self.queued_oldest_s = make.gauge(words.QUEUED_OLDEST)
        self.handlers_live = make.gauge(words.HANDLERS_LIVE)
        self.dead_letters_kept = make.gauge(words.DEAD_LETTERS_KEPT)
        self.consumer_lag = make.gauge(words.CONSUMER_LAG)
        self.consumer_behind_s = make.gauge(words.CONSUMER_BEHIND)
        self.consumer_transaction_s = make.gauge(words.CONSUMER_TRANSACTION)
        self.subscription_lag = make.gauge(words.SUBSCRIPTION_LAG)
        self.subscription_behind_s = make.gauge(words.SUBSCRIPTION_BEHIND)
        self.subscription_transaction_s = make.gauge(words.SUBSCRIPTION_TRANSACTION)
        self.subscription_waiting = make.gauge(words.SUBSCRIPTION_WAITING)
        self.subscription_records = make.counter(words.SUBSCRIPTION_RECORDS)
        self.subscription_attached = make.counter(words.SUBSCRIPTION_ATTACHED)
        self.subscription_expired = make.counter(words.SUBSCRIPTION_EXPIRED)
        self.schedule_ticks = make.counter(words.SCHEDULE)
        self.schedule_blocked = make.gauge(words.SCHEDULE_BLOCKED)
        self.handler_paused = make.gauge(words.HANDLER_PAUSED)
        self.function_requests = make.counter(words.FUNCTION_REQUESTS)
        self.function_down = make.gauge(words.FUNCTION_DOWN)
        self.send_conflicts = make.counter(words.SEND_CONFLICTS)
        self.records_expired = make.counter(words.RECORDS_EXPIRED).labels()
        self.commit_members = make.histogram(words.COMMIT_MEMBERS).labels()
        self.commit_s = make.histogram(words.COMMIT_SECONDS).labels()
        self.commit_failures = make.counter(words.COMMIT_FAILURES)
        self.commit_waiting = make.gauge(words.COMMIT_WAITING)
        self.outbox_unsent = make.gauge(words.OUTBOX_UNSENT)
        self.outbox_oldest_s = make.gauge(words.OUTBOX_OLDEST)
        self.outbox_failed = make.gauge(words.OUTBOX_FAILED)
        self.loop_stalls = make.histogram(words.LOOP_STALLS).labels()
        self.rows_counted_at_s = make.gauge(words.ROWS_COUNTED)
        self.rows_counted_age_s = make.gauge(words.ROWS_COUNTED_AGE)
        self.disk_free_bytes = make.gauge(words.DISK_FREE)
        self.disk_bytes = make.gauge(words.DISK_TOTAL)
        self._attempts = make.counter(words.ATTEMPTS)
        self._attempt_s = make.histogram(words.ATTEMPT_SECONDS)
        self._http = make.counter(words.HTTP_REQUESTS)
        verdicts = make.counter(words.VERDICTS_TOLD)
        self.verdicts_unpublished = make.counter(words.VERDICTS_UNPUBLISHED).labels()
        heartbeats = make.counter(words.HEARTBEATS)
        letters = make.counter(words.DEAD_LETTERS_ADDED)
        publishes = make.counter(words.PUBLISHES)
        self._verdicts = {
            (kind, origin): verdicts.labels(kind, origin) for kind in VERDICTS for origin in words.ORIGINS
        }
        self._heartbeats = {origin: heartbeats.labels(origin) for origin in words.ORIGINS}
        self._letters: dict[str, Counter] = {code: letters.labels(code) for code in words.LETTER_CODES}
        self.publishes = {result: publishes.labels(result) for result in words.PUBLISH_RESULTS}
        self.failed_commits = {
            problem: self.commit_failures.labels(problem) for problem in words.COMMIT_PROBLEMS
        }
        self._ended: dict[tuple[str, str, AttemptEnd], Counter] = {}
        self._took: dict[tuple[str, str], Histogram] = {}
        self._answered: dict[tuple[str, str, int], Counter] = {}

    def serves_app(self, app: str, *, version: str, python: str) -> None:
        """Set the labels of the app in `awakeables_build_info`."""
        self._build_info.labels(app, version, python).set(1)

    def settled(self, origin: CompletionOrigin, counts: Mapping[VerdictKind | None, int]) -> None:
        """Count the verdicts of one commit, by their kind; None is a heartbeat that was kept."""
        for kind, count in counts.items():
            if kind is None:
                self._heartbeats[origin].inc(count)
            else:
                self._verdicts[kind, origin].inc(count)

    def dead_letters_added(self, code: str, count: int = 1) -> None:
        """Count dead letters that were added."""
        self._letters[code].inc(count)

    def attempt(self, service: str, handler: str, end: AttemptEnd, took_s: float) -> None:
        """Count an attempt of a handler."""
        ended = self._ended.get((service, handler, end))
        if ended is None:
            ended = self._ended[service, handler, end] = self._attempts.labels(service, handler, end)
            self._took.setdefault((service, handler), self._attempt_s.labels(service, handler))
        ended.inc()
        self._took[service, handler].observe(took_s)

    def answered(self, method: str, route: str, status: int) -> None:
        """Count an HTTP request; `route` is the template, never the path."""
        counter = self._answered.get((method, route, status))
        if counter is None:
            counter = self._answers_of(method, route, status)
        counter.inc()

    def serves(self, method: str, route: str) -> None:
        """Start this route's counter of internal errors at 0: an alarm can't see a series appear with 1."""
        self._answers_of(method, route, 500)

    def _answers_of(self, method: str, route: str, status: int) -> Counter:
        counter = self._http.labels(method, route, str(status))
        self._answered[method, route, status] = counter
        return counter


class WorkerMetrics:
    """The metrics of a worker."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        make = _Maker(self.registry)
        self._tasks = make.counter(words.WORKER_TASKS)
        self._task_s = make.histogram(words.WORKER_TASK_SECONDS)
        self.running = make.gauge(words.WORKER_RUNNING)
        self.loop_stalls = make.histogram(words.LOOP_STALLS).labels()

    def task(self, topic: str, fate: TaskEnd, took_s: float) -> None:
        """Count a task that the worker has finished."""
        self._tasks.labels(topic, fate).inc()
        self._task_s.labels(topic).observe(took_s)


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The registry's contents in the format that the Accept header prefers, and its media type."""
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


def end_of(step: Next | None) -> AttemptEnd:
    """How an attempt ended, from its last commit; None if it had none."""
    match step:
        case End(result=Resolution()):
            return "succeeded"
        case End(result=Cancellation()):
            return "cancelled"
        case End():
            return "failed"
        case Suspend():
            return "suspended"
        case BackOff():
            return "backing-off"
        case Pause():
            return "paused"
        case Continue() | None:
            return "left"
        case _:
            assert_never(step)


class _Maker:
    """Registers metrics from the vocabulary."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, metric: Metric) -> Family[Counter]:
        return counters(metric, self._registry)

    def histogram(self, metric: Metric) -> Family[Histogram]:
        return histograms(metric, self._registry)

    def gauge(self, metric: Metric) -> Gauge:
        return Gauge(metric.name, metric.help, metric.labels, registry=self._registry)

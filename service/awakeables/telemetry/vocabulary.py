"""Metrics: the closed vocabulary of what is counted, and what to do about each.

Labels hold what a declaration names (services, handlers, topics, routes), numbers of partitions,
and closed sets of words; never an ID. Operators read the same table in docs/operations.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from awakeables.core.awakeables import VERDICTS
from awakeables.core.invocations import STATUSES

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
Origin: TypeAlias = Literal["kafka", "http", "handler"]
LetterCode: TypeAlias = Literal[
    "unreadable", "unknown", "invalid", "unstorable", "skipped", "folded", "unusable-task"
]
PublishResult: TypeAlias = Literal["published", "retried", "refused"]
CommitProblem: TypeAlias = Literal["unavailable", "refused"]
AttemptEnd: TypeAlias = Literal[
    "succeeded", "failed", "cancelled", "suspended", "backing-off", "paused", "left"
]
ProblemKind: TypeAlias = Literal["store", "broker", "topic", "partition", "other"]
TaskEnd: TypeAlias = Literal["resolved", "rejected", "dead-letter", "expired", "left"]

ORIGINS: tuple[Origin, ...] = ("kafka", "http", "handler")
LETTER_CODES: tuple[LetterCode, ...] = (
    "unreadable", "unknown", "invalid", "unstorable", "skipped", "folded", "unusable-task",
)  # fmt: skip
PUBLISH_RESULTS: tuple[PublishResult, ...] = ("published", "retried", "refused")
COMMIT_PROBLEMS: tuple[CommitProblem, ...] = ("unavailable", "refused")
ATTEMPT_ENDS: tuple[AttemptEnd, ...] = (
    "succeeded", "failed", "cancelled", "suspended", "backing-off", "paused", "left",
)  # fmt: skip
PROBLEM_KINDS: tuple[ProblemKind, ...] = ("store", "broker", "topic", "partition", "other")
TASK_ENDS: tuple[TaskEnd, ...] = ("resolved", "rejected", "dead-letter", "expired", "left")
OPEN_STATUSES: tuple[str, ...] = tuple(status for status in STATUSES if status != "completed")

VALUES: dict[str, tuple[str, ...]] = {
    "kind": VERDICTS,
    "origin": ORIGINS,
    "code": LETTER_CODES,
    "result": PUBLISH_RESULTS,
    "problem": COMMIT_PROBLEMS,
    "status": OPEN_STATUSES,
    "end": ATTEMPT_ENDS,
    "about": PROBLEM_KINDS,
    "fate": TASK_ENDS,
}
"""The words that a closed label can hold; every other label is open only as far as declarations go."""

FAST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
SLOW_S = (0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 1800.0)
STALL_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0)
MEMBERS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: As it is declared; a counter's samples end in `_total` as well.
        help: What it tells, in one line.
        labels: The names of its labels.
        buckets: A histogram's upper bounds.
        runbook: What to do when it looks wrong.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    runbook: str

    @property
    def samples(self) -> tuple[str, ...]:
        """The names under which Prometheus has it."""
        match self.kind:
            case "counter":
                return (f"{self.name}_total",)
            case "gauge":
                return (self.name,)
            case "histogram":
                return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")


BUILD_INFO = Metric(
    name="awakeables_build_info",
    kind="gauge",
    help="1 for each process of the service: which app it serves, in which release, on which Python.",
    labels=("app", "version", "python"),
    runbook="Nothing: it names the app of an instance, and the apps that should be there.",
)
READY = Metric(
    name="awakeables_ready",
    kind="gauge",
    help="1 while work is taken, 0 while `/health/ready` says why not; what degrades it is in `problems`.",
    runbook="Read `/health/ready`: it names each problem.",
)
PROBLEMS = Metric(
    name="awakeables_problems",
    kind="gauge",
    help="Problems that readiness shows now, also those that only degrade, by what they are about.",
    labels=("about",),
    runbook="Read `/health/ready`; for a partition see `awakeables offsets show`.",
)
PENDING = Metric(
    name="awakeables_pending",
    kind="gauge",
    help="Awakeables that wait for an answer.",
    runbook="It grows when answers stay away: look at lag, then at the workers.",
)
PENDING_OLDEST = Metric(
    name="awakeables_pending_oldest_seconds",
    kind="gauge",
    help="Age of the awakeable that has waited longest; 0 without any.",
    runbook="`awakeables list awakeables` shows who waits; without a time-out they may wait for ever.",
)
INVOCATIONS = Metric(
    name="awakeables_invocations",
    kind="gauge",
    help="Invocations that have not ended, by status.",
    labels=("status",),
    runbook="Many pending: raise `max_running`. Paused: `awakeables show`, mend, `awakeables resume`.",
)
HANDLERS_LIVE = Metric(
    name="awakeables_handlers_live",
    kind="gauge",
    help="Handlers in memory now.",
    runbook="At `max_running` the rest waits as rows: raise it if memory allows.",
)
ATTEMPTS = Metric(
    name="awakeables_attempts",
    kind="counter",
    help="Attempts to run a handler, by how they ended; `left`: by a shutdown or a lost claim.",
    labels=("service", "handler", "end"),
    runbook="`backing-off` and `paused` are failures of the handler's code: its log lines name them.",
)
ATTEMPT_SECONDS = Metric(
    name="awakeables_attempt_seconds",
    kind="histogram",
    help="From the start of an attempt in memory to its end, waiting for answers (`linger`) included.",
    labels=("service", "handler"),
    buckets=SLOW_S,
    runbook="Long ones hold places of `max_running`: wait on an awakeable rather than in `ctx.run`.",
)
VERDICTS_TOLD = Metric(
    name="awakeables_verdicts",
    kind="counter",
    help="Verdicts over completions, by kind and by where they came from.",
    labels=("kind", "origin"),
    runbook="`invalid` and `unknown` are a producer's mistakes, `late` and `conflict` its delays.",
)
VERDICTS_UNPUBLISHED = Metric(
    name="awakeables_verdicts_unpublished",
    kind="counter",
    help="Verdicts that settle nothing, beyond those that are published of a partition in a minute.",
    runbook="Somebody floods the completions topic, or it is read again; the books and counters have them.",
)
HEARTBEATS = Metric(
    name="awakeables_heartbeats",
    kind="counter",
    help="Heartbeats that were kept, also after the answer.",
    labels=("origin",),
    runbook="Nothing: it tells that workers are alive.",
)
DEAD_LETTERS_ADDED = Metric(
    name="awakeables_dead_letters",
    kind="counter",
    help="Records of the completions topic, and tasks reported there, that became dead letters, by code.",
    labels=("code",),
    runbook="`awakeables dead-letters list`; mend the producer, then `awakeables dead-letters resend`.",
)
DEAD_LETTERS_KEPT = Metric(
    name="awakeables_dead_letters_kept",
    kind="gauge",
    help="Dead letters in the store.",
    runbook="They are purged after their retention; resend or leave them.",
)
CONSUMER_LAG = Metric(
    name="awakeables_consumer_lag",
    kind="gauge",
    help="Records of the completions topic that are not settled yet, by partition.",
    labels=("partition",),
    runbook="It comes back to 0, or: `awakeables offsets show`, commit latency, loop stalls.",
)
CONSUMER_BEHIND = Metric(
    name="awakeables_consumer_behind_seconds",
    kind="gauge",
    help="Age of the last record settled while more of its partition wait; 0 at its end.",
    labels=("partition",),
    runbook="Past the topic's `retention.ms` answers are lost: raise it while you mend the cause.",
)
CONSUMER_TRANSACTION = Metric(
    name="awakeables_consumer_transaction_open_seconds",
    kind="gauge",
    help="For how long an open transaction has held a partition before its end; 0: none is open.",
    labels=("partition",),
    runbook="Answers behind it wait: `kafka-transactions.sh find-hanging`, and abort it or end its producer.",
)
RECORDS_EXPIRED = Metric(
    name="awakeables_records_expired",
    kind="counter",
    help="Records of the completions topic that were deleted before they were read.",
    runbook="They are lost: raise the topic's `retention.ms`, ask the producers to answer again.",
)
COMMIT_MEMBERS = Metric(
    name="awakeables_commit_members",
    kind="histogram",
    help="Writes that were committed together; a look at the rows that found nothing is none.",
    buckets=MEMBERS,
    runbook="Large groups mean that the disk is slow: see the commit's latency.",
)
COMMIT_SECONDS = Metric(
    name="awakeables_commit_seconds",
    kind="histogram",
    help="One transaction, from asking the store to its answer, fsync included.",
    buckets=FAST_S,
    runbook="Look at the disk's fsync latency: every answer waits for it.",
)
COMMIT_FAILURES = Metric(
    name="awakeables_commit_failures",
    kind="counter",
    help="Transactions that failed: the store was unavailable (tried again), or refused the data.",
    labels=("problem",),
    runbook="`unavailable`: disk full or failing, see the log; `refused`: one invocation or record.",
)
COMMIT_WAITING = Metric(
    name="awakeables_commit_waiting",
    kind="gauge",
    help="Writes that wait for the next transaction.",
    runbook="Past 20,000 calls are refused with 503: the store is too slow, or down.",
)
PUBLISHES = Metric(
    name="awakeables_publishes",
    kind="counter",
    help="Records to Kafka: published, retried after a failure, or refused for good.",
    labels=("result",),
    runbook="`refused` has rejected the awakeable with publish-failed: the log names topic and reason.",
)
OUTBOX_UNSENT = Metric(
    name="awakeables_outbox_unsent",
    kind="gauge",
    help="Records that are committed and not yet in Kafka.",
    runbook="Kafka is away or slow, or a topic is missing: `awakeables doctor`, `awakeables topics check`.",
)
OUTBOX_OLDEST = Metric(
    name="awakeables_outbox_oldest_seconds",
    kind="gauge",
    help="Age of the oldest record that is not yet in Kafka; 0 without any.",
    runbook="Kafka is away or slow, or a topic is missing: `awakeables doctor`, `awakeables topics check`.",
)
OUTBOX_FAILED = Metric(
    name="awakeables_outbox_failed",
    kind="gauge",
    help="Records that Kafka has refused for good and that are kept.",
    runbook="`awakeables outbox list` says why; mend it, then `awakeables outbox resend`; purged in time.",
)
HTTP_REQUESTS = Metric(
    name="awakeables_http_requests",
    kind="counter",
    help="HTTP requests, by route and status; a path that nothing is served at has the route `none`.",
    labels=("method", "route", "http_status"),
    runbook="503: store down or overloaded; 500: a mistake of ours, the log has its stack.",
)
LOOP_STALLS = Metric(
    name="awakeables_loop_stall_seconds",
    kind="histogram",
    help="How long something blocked the event loop, when longer than `stall_threshold`.",
    buckets=STALL_S,
    runbook="`loop_blocked` in the log has the stack: put such code into `ctx.run`, as a plain function.",
)
ROWS_COUNTED = Metric(
    name="awakeables_rows_counted_timestamp_seconds",
    kind="gauge",
    help="When the gauges that are counted from rows were last brought up to date.",
    runbook="Older than a minute: the store can't be read, the gauges are stale.",
)
ROWS_COUNTED_AGE = Metric(
    name="awakeables_rows_counted_age_seconds",
    kind="gauge",
    help="How old the gauges that are counted from rows are, by this machine's clock alone.",
    runbook="5 s and what a count takes; older: the store can't be read, or something holds up the process.",
)
DISK_FREE = Metric(
    name="awakeables_disk_free_bytes",
    kind="gauge",
    help="What is free where the store's file is.",
    runbook="Free space or grow the volume: on a full disk nothing is committed, and nothing is lost.",
)
DISK_TOTAL = Metric(
    name="awakeables_disk_bytes",
    kind="gauge",
    help="The size of the file system where the store's file is.",
    runbook="Nothing: it puts the free bytes in proportion.",
)
WORKER_TASKS = Metric(
    name="awakeables_worker_tasks",
    kind="counter",
    help="Tasks that a worker is done with, by what became of them; `left`: to the next worker.",
    labels=("topic", "fate"),
    runbook="`rejected` and `dead-letter`: the worker's log names the task and the reason.",
)
WORKER_TASK_SECONDS = Metric(
    name="awakeables_worker_task_seconds",
    kind="histogram",
    help="From the receipt of a task to its acknowledgement, retries included.",
    labels=("topic",),
    buckets=SLOW_S,
    runbook="Past the awakeable's time-out it is in vain: more workers, or a longer time-out.",
)
WORKER_RUNNING = Metric(
    name="awakeables_worker_running",
    kind="gauge",
    help="Tasks that a worker has in hand.",
    runbook="At the worker's `concurrency` the rest waits in Kafka: raise it, or start another worker.",
)

SERVICE_METRICS: tuple[Metric, ...] = (
    BUILD_INFO, READY, PROBLEMS, PENDING, PENDING_OLDEST, INVOCATIONS, HANDLERS_LIVE, ATTEMPTS,
    ATTEMPT_SECONDS,
    VERDICTS_TOLD, VERDICTS_UNPUBLISHED, HEARTBEATS, DEAD_LETTERS_ADDED, DEAD_LETTERS_KEPT,
    CONSUMER_LAG, CONSUMER_BEHIND,
    CONSUMER_TRANSACTION,
    RECORDS_EXPIRED, COMMIT_MEMBERS, COMMIT_SECONDS, COMMIT_FAILURES, COMMIT_WAITING, PUBLISHES,
    OUTBOX_UNSENT, OUTBOX_OLDEST, OUTBOX_FAILED, HTTP_REQUESTS, LOOP_STALLS, ROWS_COUNTED,
    ROWS_COUNTED_AGE, DISK_FREE, DISK_TOTAL,
)  # fmt: skip
WORKER_METRICS: tuple[Metric, ...] = (WORKER_TASKS, WORKER_TASK_SECONDS, WORKER_RUNNING, LOOP_STALLS)
VOCABULARY: tuple[Metric, ...] = (*SERVICE_METRICS, *WORKER_METRICS[:-1])

PROCESS_METRICS: tuple[str, ...] = (
    "process_virtual_memory_bytes", "process_resident_memory_bytes", "process_start_time_seconds",
    "process_cpu_seconds_total", "process_open_fds", "process_max_fds",
)  # fmt: skip
"""Of the client library: the process itself, from /proc."""

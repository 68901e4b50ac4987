"""The closed vocabulary of metrics, with what to do about each.

Label values are declared names (services, handlers, topics, routes), partition numbers and closed sets of
words; never IDs. docs/operations.md has the same table for operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from awakeables.core.awakeables import VERDICTS
from awakeables.core.invocations import STATUSES

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
CompletionOrigin: TypeAlias = Literal["kafka", "http", "handler"]
LetterCode: TypeAlias = Literal[
    "unreadable", "unknown", "invalid", "unstorable", "skipped", "folded", "unusable-task", "failed", "late"
]
PublishResult: TypeAlias = Literal["published", "retried", "refused"]
CommitProblem: TypeAlias = Literal["unavailable", "refused"]
AttemptEnd: TypeAlias = Literal[
    "succeeded", "failed", "cancelled", "suspended", "backing-off", "paused", "left"
]
ProblemKind: TypeAlias = Literal["store", "broker", "topic", "partition", "other"]
TaskEnd: TypeAlias = Literal["resolved", "rejected", "dead-letter", "expired", "left"]
TickOutcome: TypeAlias = Literal["begun", "skipped_overlap", "missed", "queued", "skipped_queue"]

ORIGINS: tuple[CompletionOrigin, ...] = ("kafka", "http", "handler")
LETTER_CODES: tuple[LetterCode, ...] = (
    "unreadable", "unknown", "invalid", "unstorable", "skipped", "folded", "unusable-task", "failed", "late",
)  # fmt: skip
PUBLISH_RESULTS: tuple[PublishResult, ...] = ("published", "retried", "refused")
COMMIT_PROBLEMS: tuple[CommitProblem, ...] = ("unavailable", "refused")
ATTEMPT_ENDS: tuple[AttemptEnd, ...] = (
    "succeeded", "failed", "cancelled", "suspended", "backing-off", "paused", "left",
)  # fmt: skip
PROBLEM_KINDS: tuple[ProblemKind, ...] = ("store", "broker", "topic", "partition", "other")
TASK_ENDS: tuple[TaskEnd, ...] = ("resolved", "rejected", "dead-letter", "expired", "left")
TICK_OUTCOMES: tuple[TickOutcome, ...] = ("begun", "skipped_overlap", "missed", "queued", "skipped_queue")
FAILED_ENDS: tuple[AttemptEnd | TaskEnd, ...] = ("failed", "backing-off", "paused", "dead-letter")
"""The ends that are failures, for the status of spans."""

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
    "outcome": TICK_OUTCOMES,
}
"""The values of the closed labels; those of all other labels come from declarations."""

FAST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
SLOW_S = (0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 1800.0)
STALL_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0)
MEMBERS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: The declared name; a counter's samples also end in `_total`.
        help: What it measures, in one line.
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
        """The names of its series in Prometheus."""
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
    help="1 for each process of the service, labelled with its app, release and Python version.",
    labels=("app", "version", "python"),
    runbook="Nothing: it shows each instance's app, and which apps should be running.",
)
READY = Metric(
    name="awakeables_ready",
    kind="gauge",
    help="1 while the service accepts work, else 0; what only degrades it is in `awakeables_problems`.",
    runbook="Read `/health/ready`: it names each problem.",
)
PROBLEMS = Metric(
    name="awakeables_problems",
    kind="gauge",
    help="Current problems in readiness, including those that only degrade it, by subject.",
    labels=("about",),
    runbook="Read `/health/ready`; of partitions, `awakeables offsets show` and `subscriptions list`.",
)
PENDING = Metric(
    name="awakeables_pending",
    kind="gauge",
    help="Awakeables that wait for an answer.",
    runbook="It grows when answers don't arrive: check the lag, then the workers.",
)
PENDING_OLDEST = Metric(
    name="awakeables_pending_oldest_seconds",
    kind="gauge",
    help="Age of the oldest pending awakeable; 0 if there is none.",
    runbook="`awakeables list awakeables` shows them; without a time-out they may wait forever.",
)
INVOCATIONS = Metric(
    name="awakeables_invocations",
    kind="gauge",
    help="Invocations that have not ended, by status.",
    labels=("status",),
    runbook="Many pending: raise `max_running`. Paused: `awakeables show`, fix it, `awakeables resume`.",
)
QUEUED_OLDEST = Metric(
    name="awakeables_queued_oldest_seconds",
    kind="gauge",
    help="Age of the oldest invocation that is next in line for a key, by object; 0 if there is none.",
    labels=("object",),
    runbook="`awakeables objects list OBJECT` shows which keys are held, `awakeables why OBJECT KEY` why.",
)
HANDLERS_LIVE = Metric(
    name="awakeables_handlers_live",
    kind="gauge",
    help="Handlers in memory.",
    runbook="At `max_running` the others wait in the store: raise it if memory allows.",
)
ATTEMPTS = Metric(
    name="awakeables_attempts",
    kind="counter",
    help="Attempts of handlers, by how they ended; `left`: by a shutdown or a lost claim.",
    labels=("service", "handler", "end"),
    runbook="`backing-off` and `paused` are failures of the handler's code: see its log lines.",
)
ATTEMPT_SECONDS = Metric(
    name="awakeables_attempt_seconds",
    kind="histogram",
    help="Duration of attempts in memory, including the wait for answers (`linger`).",
    labels=("service", "handler"),
    buckets=SLOW_S,
    runbook="Long attempts count against `max_running`: wait on an awakeable rather than in `ctx.run`.",
)
SEND_CONFLICTS = Metric(
    name="awakeables_send_conflicts",
    kind="counter",
    help="Sends that began nothing, because their idempotency key was used with another input before.",
    labels=("service", "handler"),
    runbook="`send_conflict` in the log has the sender and the key: it should send the same again.",
)
VERDICTS_TOLD = Metric(
    name="awakeables_verdicts",
    kind="counter",
    help="Verdicts on completions, by kind and origin.",
    labels=("kind", "origin"),
    runbook="`invalid` and `unknown` are errors of a producer, `late` and `conflict` its delays.",
)
VERDICTS_UNPUBLISHED = Metric(
    name="awakeables_verdicts_unpublished",
    kind="counter",
    help="Verdicts not published, because a partition exceeded `verdicts_per_minute`.",
    runbook="A producer floods the completions topic, or it is read again; `awakeables show` has them.",
)
HEARTBEATS = Metric(
    name="awakeables_heartbeats",
    kind="counter",
    help="Heartbeats received, including those after the answer.",
    labels=("origin",),
    runbook="Nothing: it shows that workers are alive.",
)
DEAD_LETTERS_ADDED = Metric(
    name="awakeables_dead_letters",
    kind="counter",
    help="Completions, records of subscriptions, and reported tasks that became dead letters, by code.",
    labels=("code",),
    runbook="`awakeables dead-letters list`; fix the producer, then `awakeables dead-letters resend`.",
)
DEAD_LETTERS_KEPT = Metric(
    name="awakeables_dead_letters_kept",
    kind="gauge",
    help="Dead letters in the store.",
    runbook="Resend them, or leave them: they are deleted after their retention.",
)
CONSUMER_LAG = Metric(
    name="awakeables_consumer_lag",
    kind="gauge",
    help="Records of the completions topic that are not settled yet, by partition.",
    labels=("partition",),
    runbook="If it does not return to 0: `awakeables offsets show`, commit latency, loop stalls.",
)
CONSUMER_BEHIND = Metric(
    name="awakeables_consumer_behind_seconds",
    kind="gauge",
    help="Age of the last record settled, while others of its partition wait; 0 at the end.",
    labels=("partition",),
    runbook="Past the topic's `retention.ms` answers are lost: raise it while you fix the cause.",
)
CONSUMER_TRANSACTION = Metric(
    name="awakeables_consumer_transaction_open_seconds",
    kind="gauge",
    help="How long an open transaction has blocked a partition; 0 if none is open.",
    labels=("partition",),
    runbook="Answers after it wait: `kafka-transactions.sh find-hanging`; abort it or stop its producer.",
)
SUBSCRIPTION_LAG = Metric(
    name="awakeables_subscription_lag",
    kind="gauge",
    help="Records of a subscription that have not begun an invocation yet, by partition.",
    labels=("subscription", "partition"),
    runbook="`awakeables subscriptions list` says what each partition waits for.",
)
SUBSCRIPTION_BEHIND = Metric(
    name="awakeables_subscription_behind_seconds",
    kind="gauge",
    help="Age of the last record used, while others of its partition wait; 0 at the end.",
    labels=("subscription", "partition"),
    runbook="Past the topic's `retention.ms` records are lost: raise it while you fix the cause.",
)
SUBSCRIPTION_TRANSACTION = Metric(
    name="awakeables_subscription_transaction_open_seconds",
    kind="gauge",
    help="How long an open transaction has blocked a partition of a subscription; 0 if none is open.",
    labels=("subscription", "partition"),
    runbook="`kafka-transactions.sh find-hanging`; abort the transaction or stop its producer.",
)
SUBSCRIPTION_WAITING = Metric(
    name="awakeables_subscription_waiting",
    kind="gauge",
    help="1 while a partition is not read because of a pause, `max_open`, or the full queue of a key.",
    labels=("subscription", "partition"),
    runbook="`awakeables subscriptions list` says why; paused invocations count as open.",
)
SUBSCRIPTION_RECORDS = Metric(
    name="awakeables_subscription_records",
    kind="counter",
    help="Records of a subscription that have begun an invocation.",
    labels=("subscription",),
    runbook="Compare with `awakeables_dead_letters_total`: what does not fit is a dead letter.",
)
SUBSCRIPTION_ATTACHED = Metric(
    name="awakeables_subscription_records_attached",
    kind="counter",
    help="Records of a subscription that began nothing, because their key's workflow has a run already.",
    labels=("subscription",),
    runbook="Nothing, if producers repeat records; else they use a key twice, and its second input is lost.",
)
SUBSCRIPTION_EXPIRED = Metric(
    name="awakeables_subscription_records_expired",
    kind="counter",
    help="Records of a subscription that were deleted before they were read.",
    labels=("subscription",),
    runbook="They are lost: raise the topic's `retention.ms`.",
)
SCHEDULE = Metric(
    name="awakeables_schedule",
    kind="counter",
    help="Ticks of a schedule, by what became of them; `queued` ones are `begun` later.",
    labels=("schedule", "outcome"),
    runbook="`missed`: no instance ran. `skipped_overlap`: the one before takes longer than a tick.",
)
SCHEDULE_BLOCKED = Metric(
    name="awakeables_schedule_blocked",
    kind="gauge",
    help="1 while a schedule begins nothing, because its last invocation is paused.",
    labels=("schedule",),
    runbook="`awakeables schedules list` names it; then `awakeables resume`, `restart` or `kill`.",
)
HANDLER_PAUSED = Metric(
    name="awakeables_handler_paused",
    kind="gauge",
    help="1 while an operator has paused the handler, or its service; its calls wait.",
    labels=("service", "handler"),
    runbook="`awakeables pauses` says since when, and by whom; then `awakeables resume`.",
)
FUNCTION_REQUESTS = Metric(
    name="awakeables_function_requests",
    kind="counter",
    help="Requests to the function of a remote service, by how they ended.",
    labels=("service", "result"),
    runbook="All but `answered` are failures (docs/functions.md); `awakeables show ID` has the reason.",
)
FUNCTION_DOWN = Metric(
    name="awakeables_function_down",
    kind="gauge",
    help="1 while the function of a remote service gets no requests, because too many in a row have failed.",
    labels=("service",),
    runbook="`awakeables functions list` says why. Its invocations wait, and go on by themselves.",
)
RECORDS_EXPIRED = Metric(
    name="awakeables_records_expired",
    kind="counter",
    help="Records of the completions topic that were deleted before they were read.",
    runbook="They are lost: raise the topic's `retention.ms`, and have the producers answer again.",
)
COMMIT_MEMBERS = Metric(
    name="awakeables_commit_members",
    kind="histogram",
    help="Number of writes committed together; a commit that changed nothing is not counted.",
    buckets=MEMBERS,
    runbook="Large groups mean that the disk is slow: check the commit latency.",
)
COMMIT_SECONDS = Metric(
    name="awakeables_commit_seconds",
    kind="histogram",
    help="Duration of a transaction, including fsync.",
    buckets=FAST_S,
    runbook="Check the disk's fsync latency: every answer waits for it.",
)
COMMIT_FAILURES = Metric(
    name="awakeables_commit_failures",
    kind="counter",
    help="Failed transactions: the store was unavailable (they are retried), or refused the data.",
    labels=("problem",),
    runbook="`unavailable`: disk full or failing, see the log; `refused`: concerns one invocation or record.",
)
COMMIT_WAITING = Metric(
    name="awakeables_commit_waiting",
    kind="gauge",
    help="Writes that wait for the next transaction.",
    runbook="Beyond 20,000, calls are answered 503: the store is too slow, or down.",
)
PUBLISHES = Metric(
    name="awakeables_publishes",
    kind="counter",
    help="Records for Kafka: published, retried after a failure, or permanently rejected (`refused`).",
    labels=("result",),
    runbook="`refused`: the awakeable was rejected with publish-failed; the log has topic and reason.",
)
OUTBOX_UNSENT = Metric(
    name="awakeables_outbox_unsent",
    kind="gauge",
    help="Records that are committed but not yet in Kafka.",
    runbook="Kafka is down or slow, or a topic is missing: `awakeables doctor`, `awakeables topics check`.",
)
OUTBOX_OLDEST = Metric(
    name="awakeables_outbox_oldest_seconds",
    kind="gauge",
    help="Age of the oldest record that is not yet in Kafka; 0 if there is none.",
    runbook="Kafka is down or slow, or a topic is missing: `awakeables doctor`, `awakeables topics check`.",
)
OUTBOX_FAILED = Metric(
    name="awakeables_outbox_failed",
    kind="gauge",
    help="Records kept that Kafka has permanently rejected.",
    runbook="`awakeables outbox list` says why; fix it, then `awakeables outbox resend`.",
)
HTTP_REQUESTS = Metric(
    name="awakeables_http_requests",
    kind="counter",
    help="HTTP requests, by route and status; the route is `none` for a path that does not exist.",
    labels=("method", "route", "http_status"),
    runbook="503: store down or overloaded; 500: an internal error, the log has its stack.",
)
LOOP_STALLS = Metric(
    name="awakeables_loop_stall_seconds",
    kind="histogram",
    help="How long code blocked the event loop, if longer than `stall_threshold`.",
    buckets=STALL_S,
    runbook="`loop_blocked` in the log has the stack: move such code into `ctx.run`, as a plain function.",
)
ROWS_COUNTED = Metric(
    name="awakeables_rows_counted_timestamp_seconds",
    kind="gauge",
    help="When the gauges that count rows were last updated.",
    runbook="Older than a minute: the store can't be read, and the gauges are stale.",
)
ROWS_COUNTED_AGE = Metric(
    name="awakeables_rows_counted_age_seconds",
    kind="gauge",
    help="Age of the gauges that count rows, by this machine's clock.",
    runbook="Normally 5 s plus one count; older: the store can't be read, or the process is blocked.",
)
DISK_FREE = Metric(
    name="awakeables_disk_free_bytes",
    kind="gauge",
    help="Free space on the file system of the store.",
    runbook="Free space or grow the volume: on a full disk nothing is committed, but nothing is lost.",
)
DISK_TOTAL = Metric(
    name="awakeables_disk_bytes",
    kind="gauge",
    help="Size of the file system of the store.",
    runbook="Nothing: it is for comparison with the free bytes.",
)
WORKER_TASKS = Metric(
    name="awakeables_worker_tasks",
    kind="counter",
    help="Tasks that a worker has finished, by outcome; `left`: for the next worker.",
    labels=("topic", "fate"),
    runbook="`rejected` and `dead-letter`: the worker's log has the task and the reason.",
)
WORKER_TASK_SECONDS = Metric(
    name="awakeables_worker_task_seconds",
    kind="histogram",
    help="Time from receiving a task to its acknowledgement, retries included.",
    labels=("topic",),
    buckets=SLOW_S,
    runbook="Beyond the awakeable's time-out the work is wasted: more workers, or a longer time-out.",
)
WORKER_RUNNING = Metric(
    name="awakeables_worker_running",
    kind="gauge",
    help="Tasks in progress in a worker.",
    runbook="At the worker's `concurrency` the others wait in Kafka: raise it, or start another worker.",
)

SERVICE_METRICS: tuple[Metric, ...] = (
    BUILD_INFO, READY, PROBLEMS, PENDING, PENDING_OLDEST, INVOCATIONS, QUEUED_OLDEST, HANDLERS_LIVE,
    ATTEMPTS, ATTEMPT_SECONDS, FUNCTION_REQUESTS, FUNCTION_DOWN, HANDLER_PAUSED, SEND_CONFLICTS,
    VERDICTS_TOLD, VERDICTS_UNPUBLISHED, HEARTBEATS, DEAD_LETTERS_ADDED, DEAD_LETTERS_KEPT,
    SUBSCRIPTION_LAG, SUBSCRIPTION_BEHIND, SUBSCRIPTION_TRANSACTION, SUBSCRIPTION_WAITING,
    SUBSCRIPTION_RECORDS, SUBSCRIPTION_ATTACHED, SUBSCRIPTION_EXPIRED, SCHEDULE, SCHEDULE_BLOCKED,
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
"""Metrics of the process, by the client library, from /proc."""

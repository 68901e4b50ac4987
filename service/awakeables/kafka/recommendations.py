"""How our topics should be configured, and why; the only source of these recommendations.

`docs/operations.md` shows this table, `topics check` compares a cluster with it, and `topics create`
creates topics that pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeAlias

from awakeables.kafka.topics import TopicPlan

Role: TypeAlias = Literal["completions", "dead letters", "verdicts", "revocations", "tasks", "subscribed"]
Weight: TypeAlias = Literal["must", "advice"]
Rating: TypeAlias = Literal["ok", "advice", "must"]

DAY_MS = timedelta(days=1) // timedelta(milliseconds=1)
PARTITIONS = "partitions"
REPLICATION = "replication.factor"
IN_SYNC = "min.insync.replicas"
RETENTION = "retention.ms"
SIZE = "max.message.bytes"
DEFAULT_SIZE_BYTES = 1_048_588
"""Kafka's own default: 1 MiB and the header of a batch."""

HEADERS_BYTES = 64 * 1024
"""Space for the headers that a dead letter has in addition to the record that it copies."""

UNBOUNDED = -1
"""How Kafka writes *no limit* for retention."""


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A number that may be higher; for retention -1 is the highest."""

    value: int

    def __str__(self) -> str:
        return f"≥ {self.value}"

    def fits(self, value: str) -> bool:
        return int(value) >= self.value or int(value) == UNBOUNDED

    @property
    def to_create(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Exactly:
    """Exactly this value."""

    value: str

    def __str__(self) -> str:
        return self.value

    def fits(self, value: str) -> bool:
        return value == self.value

    @property
    def to_create(self) -> str:
        return self.value


Rule: TypeAlias = AtLeast | Exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What a setting should be for topics of each role, and why.

    Attributes:
        setting: Kafka's name, or `partitions` or `replication.factor`.
        weight: `must`: a promise breaks otherwise; `advice`: it can be right otherwise.
        rules: By role; without a rule, any value is accepted.
        why: One sentence.
    """

    setting: str
    weight: Weight
    rules: Mapping[Role, Rule]
    why: str


def _all(rule: Rule) -> dict[Role, Rule]:
    roles: tuple[Role, ...] = ("completions", "dead letters", "verdicts", "revocations", "tasks")
    return dict.fromkeys(roles, rule)


RECOMMENDATIONS = (
    Recommendation(
        setting=PARTITIONS,
        weight="advice",
        rules={
            "completions": AtLeast(4),
            "dead letters": AtLeast(1),
            "verdicts": AtLeast(4),
            "revocations": AtLeast(1),
            "tasks": AtLeast(12),
        },
        why="they limit how many consumers read at once; more can be added later, but not removed",
    ),
    Recommendation(
        setting=REPLICATION,
        weight="must",
        rules=_all(AtLeast(3)),
        why="no record is lost with one broker's disk, and one broker can be down",
    ),
    Recommendation(
        setting=IN_SYNC,
        weight="must",
        rules=_all(AtLeast(2)),
        why="an acknowledged record is on two disks; with 3 replicas one can still be down",
    ),
    Recommendation(
        setting="cleanup.policy",
        weight="must",
        rules=_all(Exactly("delete")),
        why="compaction keeps only the last record of a key, and so drops the first answer, or a retry",
    ),
    Recommendation(
        setting=RETENTION,
        weight="must",
        rules={"completions": AtLeast(7 * DAY_MS), "tasks": AtLeast(7 * DAY_MS)},
        why="what expires unread is lost: longer than the longest outage of the service or of a worker",
    ),
    Recommendation(
        setting=RETENTION,
        weight="advice",
        rules={"dead letters": AtLeast(30 * DAY_MS), "verdicts": AtLeast(7 * DAY_MS)},
        why="as long as the store keeps the rows that these are copies of",
    ),
    Recommendation(
        setting=RETENTION,
        weight="advice",
        rules={"revocations": AtLeast(7 * DAY_MS)},
        why="as long as a task may wait in its topic: who takes it up then learns that nobody waits for it",
    ),
    Recommendation(
        setting=RETENTION,
        weight="advice",
        rules={"subscribed": AtLeast(7 * DAY_MS)},
        why="what expires unread is lost: longer than the longest outage of the service, or pause",
    ),
    Recommendation(
        setting="retention.bytes",
        weight="advice",
        rules=_all(Exactly(str(UNBOUNDED))),
        why="a limit by size deletes records before retention.ms, just when there is much to read",
    ),
    Recommendation(
        setting=SIZE,
        weight="advice",
        rules={
            "completions": AtLeast(DEFAULT_SIZE_BYTES),
            "dead letters": AtLeast(DEFAULT_SIZE_BYTES + HEADERS_BYTES),
            "tasks": AtLeast(DEFAULT_SIZE_BYTES),
        },
        why="a larger record is refused; a dead letter needs room for its headers, or loses its value",
    ),
    Recommendation(
        setting="message.timestamp.type",
        weight="advice",
        rules={"completions": Exactly("LogAppendTime")},
        why="retention counts from it: with CreateTime, a worker's slow clock makes answers expire early",
    ),
    Recommendation(
        setting="unclean.leader.election.enable",
        weight="must",
        rules=_all(Exactly("false")),
        why="otherwise a lagging replica may become leader, and acknowledged records are lost",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """A topic's configuration; `settings` uses the names of the recommendations."""

    name: str
    role: Role
    settings: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One setting of one topic: what it is, what it should be, and why."""

    topic: str
    setting: str
    value: str
    advised: str
    verdict: Rating
    why: str


def judge(topic: TopicState, *, brokers: int) -> Iterator[Judgement]:
    """Compare a topic with the table, as far as the cluster discloses its settings.

    If a cluster with this number of brokers can't meet a recommendation, that is only advice.
    """
    replicas = int(topic.settings[REPLICATION])
    for recommendation in RECOMMENDATIONS:
        rule, value = recommendation.rules.get(topic.role), topic.settings.get(recommendation.setting)
        if rule is None or value is None:
            continue
        verdict: Rating = "ok" if rule.fits(value) else recommendation.weight
        advised, why = str(rule), recommendation.why
        if verdict == "must" and not _can_be(recommendation.setting, rule, brokers):
            verdict, why = "advice", f"{why} (impossible with {brokers} broker{'s' * (brokers != 1)})"
        if recommendation.setting == IN_SYNC and int(value) > replicas:
            verdict, advised, why = (
                "must",
                f"≤ {replicas}",
                "more than there are replicas, so all publishing fails",
            )
        yield Judgement(
            topic=topic.name,
            setting=recommendation.setting,
            value=value,
            advised=advised,
            verdict=verdict,
            why=why,
        )


def plan_for(
    role: Role, *, brokers: int, partitions: int | None = None, replication: int | None = None
) -> TopicPlan:
    """A new topic that passes, as far as this number of brokers allows; arguments take precedence."""
    chosen = {r.setting: r.rules[role].to_create for r in RECOMMENDATIONS if role in r.rules}
    counted, copies = int(chosen.pop(PARTITIONS)), min(int(chosen.pop(REPLICATION)), brokers)
    replicas = copies if replication is None else replication
    return TopicPlan(
        partitions=counted if partitions is None else partitions,
        replication=replicas,
        settings=chosen | {IN_SYNC: str(max(replicas - 1, 1))},
    )


def _can_be(setting: str, rule: Rule, brokers: int) -> bool:
    if setting == IN_SYNC:
        return brokers > int(rule.to_create)
    return setting != REPLICATION or brokers >= int(rule.to_create)

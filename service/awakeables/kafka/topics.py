"""Which topics exist, queried without creating any; and creating an app's topics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient

from awakeables.errors import BrokerUnavailable, TopicMissing
from awakeables.kafka.closing import close_client
from awakeables.kafka.connection import NO_CONNECTION, KafkaConnection
from awakeables.kafka.diagnosis import DENIED, denied, diagnose, error_text
from awakeables.kafka.metadata import TopicsRequest

READY_PAUSE_S = 0.05
"""A new topic has no leader yet in the first milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFacts:
    """What a broker reports about a topic; `problem` is None if it can be used.

    Attributes:
        leaderless: Whether a partition has no leader at the moment; the others can be used.
        replication: The smallest number of replicas of any partition.
        topic_id: Distinguishes it from an earlier topic of the same name; None if the broker knows no IDs.
    """

    partitions: frozenset[int]
    replication: int
    problem: type[kafka.KafkaError] | None
    topic_id: str | None = None
    leaderless: bool = False

    @property
    def missing(self) -> bool:
        return self.problem is kafka.UnknownTopicOrPartitionError


def no_topic(topic: str, connection: KafkaConnection, *, ours: bool = True) -> TopicMissing:
    """An error for a missing topic; its message says how to create it.

    Args:
        topic: Its name.
        connection: Where it is missing.
        ours: We create it; a topic that is only read is created by its owner.
    """
    if not ours:
        return TopicMissing(f"there is no topic {topic!r}; who writes it creates it")
    if connection.embedded:
        return TopicMissing(
            f"there is no topic {topic!r}; start `awakeables dev` with the worker that reads it, --worker "
            f"MODULE:WORKER, or, if that runs elsewhere, with --task-topic {topic}"
        )
    return TopicMissing(f"there is no topic {topic!r}; `awakeables topics create` creates it")


async def describe(
    client: AIOKafkaClient, names: Iterable[str], *, node: int | None = None
) -> dict[str, TopicFacts]:
    """Ask a broker about these topics: the broker with this ID, or any.

    aiokafka's own requests allow the broker to create the topics that they name; this doesn't.

    Raises:
        KafkaError: The broker did not answer.
    """
    response = await client.send(client.get_random_node() if node is None else node, TopicsRequest(names))
    facts = {}
    for topic in response.to_object()["topics"]:
        partitions = topic["partitions"]
        problem = None if topic["error_code"] == 0 else kafka.for_code(topic["error_code"])
        led = [row["leader"] >= 0 for row in partitions]
        if problem is None and not any(led):
            problem = kafka.LeaderNotAvailableError
        facts[topic["topic"]] = TopicFacts(
            partitions=frozenset(row["partition"] for row in partitions),
            replication=min((len(row["replicas"]) for row in partitions), default=0),
            problem=problem,
            topic_id=topic.get("topic_id"),
            leaderless=not all(led),
        )
    return facts


async def facts_of(connection: KafkaConnection, topic: str, *, ours: bool = True) -> TopicFacts:
    """The partitions and the ID of a topic that can be used; `ours` as in `no_topic`.

    Raises:
        TopicMissing: There is no such topic.
        BrokerUnavailable: The broker can't be reached, or has no leader for it yet.
    """
    async with asking(connection) as client:
        facts = (await describe(client, [topic]))[topic]
    if facts.missing:
        raise no_topic(topic, connection, ours=ours)
    if facts.problem in DENIED:
        raise denied(connection.security, f"topic {topic!r}")
    if facts.problem is not None:
        raise BrokerUnavailable(f"topic {topic!r}: {facts.problem.__name__}")
    return facts


async def missing_topics(connection: KafkaConnection, names: Iterable[str]) -> list[str]:
    """Those of the topics that do not exist; asking creates none.

    Raises:
        BrokerUnavailable: The broker can't be reached.
    """
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return []
    async with asking(connection) as client:
        facts = await describe(client, wanted)
    return [name for name in wanted if facts[name].missing]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicPlan:
    """A topic to create; the cluster chooses what is not given."""

    partitions: int
    replication: int = -1
    settings: Mapping[str, str] = field(default_factory=dict)


async def create_topics(connection: KafkaConnection, topics: Mapping[str, int | TopicPlan]) -> None:
    """Create topics by plans, or with a number of partitions; existing ones are unchanged.

    Returns when every broker that we ask knows a leader for all their partitions.

    Raises:
        BrokerUnavailable: The broker can't be reached, or refuses.
    """
    # Topics that the embedded broker or another process has created need no admin request.
    wanted = set(await missing_topics(connection, topics))
    new = [_new(name, plan) for name, plan in topics.items() if name in wanted]
    if new:
        await _create(connection, new)
    async with asking(connection) as client, asyncio.timeout(connection.request_timeout.total_seconds()):
        while True:
            described = await describe(client, topics)
            if not any(facts.problem or facts.leaderless for facts in described.values()):
                return
            await asyncio.sleep(READY_PAUSE_S)


def _new(name: str, plan: int | TopicPlan) -> NewTopic:
    if isinstance(plan, int):
        plan = TopicPlan(partitions=plan)
    # aiokafka accepts the cluster's own replication factor (-1) only with assignments, and any other
    # factor only without.
    assignments: dict[int, list[int]] | None = {} if plan.replication < 0 else None
    return NewTopic(name, plan.partitions, plan.replication, assignments, dict(plan.settings))


async def _create(connection: KafkaConnection, new: list[NewTopic]) -> None:
    admin = AIOKafkaAdminClient(**connection.client_options())
    try:
        await admin.start()
        response = await admin.create_topics(new)
    except kafka.IncompatibleBrokerVersion as error:
        raise BrokerUnavailable(
            f"{connection.bootstrap} does not create topics on request; if it is the broker of `awakeables "
            "dev`, name them when it starts: `awakeables dev --task-topic TOPIC`"
        ) from error
    except (kafka.KafkaError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"the topics can't be created: {error_text(error)}") from error
    finally:
        await close_client(admin)
    # aiokafka returns the broker's refusal instead of raising it.
    for name, code, *message in response.topic_errors:
        if code and kafka.for_code(code) is not kafka.TopicAlreadyExistsError:
            reason = next((text for text in message if text), kafka.for_code(code).__name__)
            raise BrokerUnavailable(f"topic {name!r} can't be created: {reason}")


@asynccontextmanager
async def asking(connection: KafkaConnection) -> AsyncIterator[AIOKafkaClient]:
    """An admin client for a few requests.

    Raises:
        BrokerUnavailable: Kafka can't be reached, refuses us, or doesn't answer one of them.
    """
    client = AIOKafkaClient(**connection.client_options())
    try:
        async with asyncio.timeout(connection.request_timeout.total_seconds()):
            await client.bootstrap()
            yield client
    except NO_CONNECTION as error:
        raise await diagnose(connection, error) from error
    finally:
        await close_client(client)

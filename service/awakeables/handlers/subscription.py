"""Subscriptions: a handler is called with each record of a Kafka topic."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple, TypeAlias

from msgspec import UnsetType

from awakeables.core.journal import Input, SourceRecord
from awakeables.core.records import instant
from awakeables.core.texts import excerpt
from awakeables.core.topics import is_topic_name
from awakeables.errors import DeclarationError

MOST_OPEN = 1_000_000_000

Start: TypeAlias = Literal["earliest", "latest"] | datetime

OnFailure: TypeAlias = Literal["dead-letter", "keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaRecord:
    """A record that a subscription has read.

    Attributes:
        topic: The topic.
        partition: The partition's number.
        offset: Its offset in the partition.
        timestamp: When it was created, or written to the topic, as the topic's settings say; in UTC.
        key: Its key; None: it has none.
        value: Its value as it was written; None: it is a tombstone.
        headers: Its headers in order, names as they were written; a name may be repeated.
    """

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    partition: int = 0
    offset: int = 0
    timestamp: datetime = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Subscription:
    """How a handler is called with the records of a topic.

    Each record begins one invocation, in the transaction that moves the offset: none is lost, and none is
    begun twice, whatever crashes. The input is the record's value, by the annotation of the handler; what
    does not fit is a dead letter.

    Attributes:
        topic: The topic.
        name: Identifies the subscription, in the store, as part of its consumer group's name, and in
            commands: under another name it begins at `start` again. By default `service.handler`.
        start: Where it begins when it is first run: at the beginning of the topic, at its end, or at the
            first record that is not older than an instant. That is resolved once, and kept.
        key: The key to call a handler of an object for; by default the record's key, as UTF-8. It may be
            called several times for a record, and must have no side effects.
        on_failure: What becomes of a record whose invocation fails: `dead-letter`, a dead letter
            that can be sent again; `keep`, nothing but the failed invocation. An invocation that was
            cancelled or killed makes none.
        max_open: With so many open invocations nothing more is read. Each instance counts what the others
            have begun every few seconds; until then each may begin as many.

    Raises:
        DeclarationError: A value can't be used.
    """

    topic: str
    _: KW_ONLY
    name: str | None = None
    start: Start = "earliest"
    key: Callable[[KafkaRecord], str] | None = None
    on_failure: OnFailure = "dead-letter"
    max_open: int = 10_000

    def __post_init__(self) -> None:
        where = f"subscription to {excerpt(self.topic)}"
        if not isinstance(self.topic, str) or not self.topic:
            raise DeclarationError(f"{where}: a topic is a string that is not empty")
        if not is_topic_name(self.topic):
            raise DeclarationError(
                f"{where}: the name of a topic has at most 249 letters, digits, '.', '_' and '-'"
            )
        if self.name is not None and (not isinstance(self.name, str) or not self.name):
            raise DeclarationError(f"{where}: name= is a string that is not empty, not {excerpt(self.name)}")
        if isinstance(self.start, datetime):
            if self.start.tzinfo is None:
                raise DeclarationError(f"{where}: start= has no time zone; use datetime(…, tzinfo=UTC)")
        elif self.start not in ("earliest", "latest"):
            raise DeclarationError(
                f"{where}: start= is 'earliest', 'latest' or a datetime, not {excerpt(self.start)}"
            )
        if self.on_failure not in ("dead-letter", "keep"):
            raise DeclarationError(
                f"{where}: on_failure= is 'dead-letter' or 'keep', not {excerpt(self.on_failure)}"
            )
        if type(self.max_open) is not int or not 1 <= self.max_open <= MOST_OPEN:
            raise DeclarationError(
                f"{where}: max_open= is a whole number from 1 to {MOST_OPEN:,}, not {excerpt(self.max_open)}"
            )
        if self.key is not None and not callable(self.key):
            raise DeclarationError(f"{where}: key= is a function of the record, not {excerpt(self.key)}")
        if inspect.iscoroutinefunction(self.key):
            raise DeclarationError(f"{where}: key= must not be an `async` function")


def record_of(given: Input, source: SourceRecord) -> KafkaRecord:
    """The record that an invocation was begun for."""
    return KafkaRecord(
        topic=source.topic,
        partition=source.partition,
        offset=source.offset,
        timestamp=instant(source.at_ms),
        key=source.key,
        value=value_of(given, source),
        headers=source.headers,
    )


def value_of(given: Input, source: SourceRecord) -> bytes | None:
    """The value of the record, as it was written."""
    if source.tombstone or source.written is not None:
        return source.written
    if not isinstance(given.value, UnsetType):
        return bytes(given.value)
    return None if isinstance(given.value_base64, UnsetType) else given.value_base64


class Undeclared(NamedTuple):
    """A subscription of which the store has positions, and that the code does not declare.

    Attributes:
        followers: The declared subscriptions of its topic that have not begun, each with its start.
    """

    name: str
    topic: str
    followers: Mapping[str, Start]

    @property
    def advice(self) -> str:
        """What happens with the followers, and how one goes on instead where this subscription was."""
        begin = ", ".join(f"{name} begins at its start ({start})" for name, start in self.followers.items())
        return f"{begin}; declare it with name={self.name!r} if it is to go on where that was"


def undeclared(declared: Mapping[str, Subscription], held: Collection[tuple[str, str]]) -> list[Undeclared]:
    """The subscriptions that a store has positions of and the code does not declare.

    Args:
        declared: The subscriptions of the code, by name.
        held: The names of those that have positions, each with its topic.
    """
    begun = set(held)
    known = {(name, each.topic) for name, each in declared.items()}
    return [
        Undeclared(
            name,
            topic,
            {
                new: each.start
                for new, each in declared.items()
                if each.topic == topic and (new, topic) not in begun
            },
        )
        for name, topic in sorted(begun - known)
    ]

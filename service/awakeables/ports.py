"""The ports: everything that the engine needs from outside, on one page.

A store is several small ports. Whatever the core decides is written by one method: `Commits.commit` takes
commands as data (`core/commands.py`). So one group commit serves every kind of write, and tests inject a
fault before or after it in one place (docs/adr/0027-load-decide-write.md). Two more ports write, outside
`commit` and without a decision: `Membership`, where instances that share a store register, and `Watermark`,
where they note up to when they have read. The others only read, and return what is committed. `Hints` pass
between instances and are not stored.

Every method of a store may raise `StoreUnavailable`; `commit` may raise `StoreRefused`, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, Literal, Protocol, TypeAlias, TypeVar

from awakeables.core.awakeables import AwakeableRow, AwakeableState, CodecKind
from awakeables.core.commands import Command, Ended
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Effect, EffectState, QueuedEffect
from awakeables.core.instances import HeartbeatReply, Hint, Instance, PartitionRead
from awakeables.core.invocations import Invocation, Status
from awakeables.core.journal import Entry
from awakeables.core.objects import ObjectKey, ObjectRow, StateEntry
from awakeables.core.outcomes import Outcome
from awakeables.core.pauses import PauseRow
from awakeables.core.records import Record
from awakeables.core.replies import Position, Reply
from awakeables.core.rows import Chunk, EffectRow, KeyRow, PositionRow
from awakeables.core.schedules import ListedSchedule
from awakeables.core.versions import OpenInvocations

T = TypeVar("T")

Pages: TypeAlias = AsyncIterator[Sequence[T]]
"""Rows in pages that are never empty, and small enough for memory."""


class Clock(Protocol):
    """The source of time."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds of a clock that never goes backwards."""
        ...


class Entropy(Protocol):
    """The source of randomness."""

    def bytes(self, count: int) -> bytes:
        """`count` unpredictable bytes."""
        ...


class PayloadCodec(Protocol):
    """Seals the values of an app before they are stored, and opens them; `KeyRing` is one.

    Both methods are called from several threads, for each value that is written or read: they must be fast.
    It may have two more attributes: `lost`, the IDs of keys that are gone, and `accepts_clear`, whether a
    value that is not sealed is taken for one from before there was a codec (default: it is).
    """

    @property
    def key_id(self) -> str | None:
        """The ID of the key that `seal` uses, which is stored beside each value: 1 to 255 bytes.

        None: nothing is sealed, and what was sealed is opened.
        """
        ...

    def seal(self, content: bytes, /, *, bound_to: str) -> bytes:
        """Encrypt and authenticate a value.

        Args:
            content: The value.
            bound_to: Where it is stored, to be authenticated with it.
        """
        ...

    def open(self, sealed: bytes, /, *, key_id: str, bound_to: str) -> bytes:
        """Give back what `seal` was given.

        Args:
            sealed: What `seal` returned.
            key_id: The ID of the key that it used.
            bound_to: What it was given.

        Raises:
            KeyMissing: There is no key with this ID.
            StoreUnavailable: It may succeed later; the caller tries again. Any other error: it is not what
                was sealed.
        """
        ...


class Commits(Protocol):
    """The one way to change invocations and all that belongs to them."""

    def commit(self, commands: Sequence[Command]) -> Awaitable[list[Reply]]:
        """Apply commands in order; give a reply per command, in order.

        Each command is applied whole or not at all. Once awaited, everything is on disk. If it raises
        `StoreUnavailable`, some or all of it may be: send the same commands again. If it raises
        `StoreRefused`, at least one of the commands never can be: the caller finds it by bisection.

        A store with one writer applies them in one transaction. One that several processes share commits
        each command that searches or purges apart, and the commands in between together.
        """
        ...


class JournalReader(Protocol):
    """Reads what an owner needs to resume an invocation."""

    async def history(self, invocation_ids: Sequence[str]) -> dict[str, list[Entry]]:
        """The whole journals of these invocations."""
        ...

    async def outcomes(self, awakeable_ids: Sequence[str]) -> dict[str, Outcome]:
        """The outcomes of the settled ones of these awakeables, in the order in which they were settled."""
        ...

    async def held_by(self, owner: str) -> list[str]:
        """The invocations that are running under this owner."""
        ...

    async def ends(self, invocation_ids: Sequence[str]) -> dict[str, Outcome | None]:
        """The outcomes of those of these invocations that have ended; None for those that are paused."""
        ...


class Expectation(Record):
    """What a value must be to resolve an awakeable, and the awakeable's invocation.

    Attributes:
        keeps_late: A record with a late answer becomes a dead letter.
    """

    invocation_id: str
    codec: CodecKind
    type_name: str | None
    schema_hash: str | None
    schema: bytes | None
    keeps_late: bool = False


class StateReader(Protocol):
    """Reads what the handlers of a virtual object ask for."""

    async def state(self, object_key: ObjectKey, name: str) -> bytes | None:
        """A value in the state of a key, as `StateWrite` has it; None: there is none."""
        ...

    async def state_names(self, object_key: ObjectKey) -> list[str]:
        """The names of the state of a key, in order."""
        ...


class HandlerReader(JournalReader, StateReader, Protocol):
    """Reads what handlers need."""

    async def awakeable(self, awakeable_id: str) -> AwakeableRow | None:
        """An awakeable, whole."""
        ...


class SettlementReader(Protocol):
    """Reads what is needed to validate a value before it is settled."""

    async def expectations(self, awakeable_ids: Sequence[str]) -> dict[str, Expectation]:
        """What these awakeables accept; those without a row are left out."""
        ...


class OutboxReader(Protocol):
    """Reads what is still to be published."""

    async def effects(self, owner: str, limit: int) -> list[Effect]:
        """Unsent effects that this owner has claimed, each stream's in order of position.

        They are from the streams with the oldest effects; the limit cuts off only the end of a stream.
        """
        ...


class RetentionReader(Protocol):
    """Reads what may be purged."""

    async def ended(self, before_ms: int, limit: int) -> list[Ended]:
        """Invocations that ended at or before `before_ms`, the oldest end first.

        As many as have `limit` journal chunks together; one that has more is returned alone.
        """
        ...

    async def awakeables_of(self, invocation_ids: Sequence[str]) -> dict[str, list[str]]:
        """All awakeables of invocations, settled or not, by the invocation.

        Every awakeable is looked at: it is for invocations whose journals, which name them, can't be read.
        """
        ...


class OffsetReader(Protocol):
    """Reads how far topics were read, and what subscriptions have begun."""

    async def positions(self, topic: str, subscription: str = "") -> list[Position]:
        """The position of each partition that a subscription has read; empty: of the completions topic."""
        ...

    async def subscribed(self) -> list[tuple[str, str]]:
        """The names of subscriptions that have positions, each with its topic, in order."""
        ...

    async def count_open(self, subscription: str, most: int) -> int:
        """How many invocations of a subscription have not ended, counted up to `most`."""
        ...


Where: TypeAlias = Literal["earliest", "latest"] | int
"""A place in a topic: its beginning, its end, or the first record of an instant or later (ms since 1970)."""


class TopicOffsets(Protocol):
    """Finds offsets in topics."""

    async def offsets_at(self, topic: str, partitions: Collection[int], where: Where) -> Mapping[int, int]:
        """The offset of a place in each of these partitions; of an instant after the last record, its end.

        Raises:
            BrokerUnavailable: The broker did not answer.
        """
        ...


class ScheduleReader(Protocol):
    """Reads schedules."""

    async def schedules(self) -> list[ListedSchedule]:
        """All schedules, by name."""
        ...


class Watermark(Protocol):
    """The moment up to which the completions topic is read by all instances together (hard case 5)."""

    async def read_up_to(
        self, topic: str, partitions: int, mine: Sequence[PartitionRead], *, topic_id: str | None = None
    ) -> int | None:
        """Note up to when this instance has read its partitions of the topic.

        Args:
            topic: The topic.
            partitions: How many partitions it has, as far as this instance knows. The store keeps the
                largest number that it got for a topic.
            mine: The partitions that this instance reads.
            topic_id: The topic's ID in the broker. Under another ID it is another topic, which may have
                fewer partitions. None: not known.

        Returns:
            The moment up to which every partition is read, in milliseconds since 1970 by the store's
            clock; None if one of them never was.
        """
        ...


class Page(Record):
    """A page of a list: the `limit` newest rows whose IDs sort before `before`."""

    limit: int = 50
    before: str | None = None


ListedStatus: TypeAlias = Status | Literal["open"]
"""A status to list, or `open`: each one but `completed`."""


class InvocationFilter(Record):
    """Which invocations to list; None: any.

    Attributes:
        handler: The name of a handler, in any service unless `service` is given.
        subscription: The name of the subscription whose records they are for.
    """

    status: ListedStatus | None = None
    service: str | None = None
    handler: str | None = None
    subscription: str | None = None

    def includes(self, row: Invocation) -> bool:
        return (
            (row.status != "completed" if self.status == "open" else self.status in (None, row.status))
            and self.service in (None, row.service)
            and self.handler in (None, row.handler)
            and self.subscription in (None, row.subscription)
        )


ANY_INVOCATION: Final = InvocationFilter()


class PauseReader(Protocol):
    """Reads what operators have paused."""

    async def pauses(self) -> list[PauseRow]:
        """The handlers and services that are paused, by name."""
        ...


class Inspection(PauseReader, Protocol):
    """Reads for people and monitoring; lists are newest first.

    The rows of lists are brief (core/brief.py): without keys, values, headers, details and answers.
    """

    async def invocation(self, invocation_id: str) -> Invocation | None: ...

    async def invocations(self, page: Page, which: InvocationFilter = ANY_INVOCATION) -> list[Invocation]:
        """The invocations that the filter includes.

        Open ones are found among the open ones, of a subscription among its own. Without a status all are
        visited, newest first, until the page is full.
        """
        ...

    async def open_by_versions(self) -> list[OpenInvocations]:
        """The invocations that have not ended, by their handlers and versions.

        All of them are visited: some seconds per million.
        """
        ...

    async def keyed(self, scopes: Sequence[str], key: str) -> list[Invocation]:
        """The invocations begun with an idempotency key in any of these scopes, newest first."""
        ...

    async def idempotency_key(self, invocation_id: str) -> str | None:
        """The idempotency key that an invocation was begun with, None if there was none."""
        ...

    async def journal(self, invocation_id: str, most_bytes: int) -> tuple[list[Entry], bool]:
        """The beginning of a journal, up to the chunk that reaches `most_bytes`; and whether that is all."""
        ...

    async def queue(self, object_key: ObjectKey) -> ObjectRow | None:
        """The queue of a key; None: it has no open exclusive invocation, and is not paused."""
        ...

    async def queues(self, service: str, limit: int, after: bytes = b"") -> list[ObjectRow]:
        """The queues of an object's keys that sort after one, by key."""
        ...

    async def in_line(self, object_key: ObjectKey, limit: int) -> list[Invocation]:
        """The invocations that are queued for a key, the next one first."""
        ...

    async def waits_of(self, invocation_id: str, limit: int) -> list[AwakeableRow]:
        """The pending awakeables, and waits for calls, of an invocation, the oldest first."""
        ...

    async def states(self, object_key: ObjectKey, limit: int, after: str = "") -> list[StateEntry]:
        """The state of a key, by name."""
        ...

    async def keys_with_state(self, service: str, limit: int, after: bytes = b"") -> list[bytes]:
        """The keys of an object that have state and sort after one, in order."""
        ...

    async def awakeable(self, awakeable_id: str) -> AwakeableRow | None: ...

    async def awakeables(self, page: Page, *, state: AwakeableState | None = None) -> list[AwakeableRow]: ...

    async def dead_letter(self, dead_letter_id: str) -> DeadLetter | None: ...

    async def dead_letters(self, page: Page) -> list[DeadLetter]: ...

    async def queued_effect(self, event_id: str) -> QueuedEffect | None: ...

    async def queued_effects(self, page: Page, *, state: EffectState) -> list[QueuedEffect]: ...

    async def counts(self) -> Mapping[str, int]:
        """Numbers of rows; on disk, the time to answer does not grow with them.

        In PostgreSQL the number of a kind with more than 10,000 rows may be a minute old.

        `awakeables_pending`, `invocations_open` and each open status (`invocations_<status>`),
        `effects_unsent`, `effects_failed`, `dead_letters`; and when the oldest was created, by its ID,
        left out if there is none: `awakeables_oldest_ms` (pending ones), `effects_oldest_ms` (unsent
        ones). `queued_oldest_ms:<object>`: since when the first in line of a key has been waiting; of the
        first 1,000 keys, by object and key.
        """
        ...


QUEUED_OLDEST: Final = "queued_oldest_ms:"
"""The prefix of those of `Inspection.counts` that each object has."""


class Membership(Protocol):
    """The instances that share the store, whose clock decides which of them live.

    An instance that was declared dead stays dead: others take over its rows, and it must register under a
    new ID.

    Attributes:
        shared: Whether there can be several at once. Otherwise the one that registered last is the only
            one, and needs no heartbeats.
    """

    shared: bool

    async def register(self, instance: Instance) -> None:
        """Add an instance. The store notes when it started, and when its build was first seen.

        Instances that have been dead for a day are forgotten.
        """
        ...

    async def beat(self, instance_id: str, *, timeout_ms: int) -> HeartbeatReply | None:
        """Record an instance's heartbeat, and declare dead those without one for `timeout_ms`.

        Returns:
            The living instances; None if this one has been declared dead or has left.
        """
        ...

    async def serve(self, instance_id: str, handlers: Sequence[str]) -> None:
        """Record that an instance serves these handlers from now on, and no others."""
        ...

    async def leave(self, instance_id: str, *, gone: bool) -> None:
        """Record that an instance is stopping, or is `gone`: then others may take over at once."""
        ...

    async def instances(self) -> list[Instance]:
        """All instances that are known, dead ones included, by ID."""
        ...


class FunctionStatus(Record):
    """What an instance knows of the function of a remote service.

    Attributes:
        service: The remote service.
        build: The version of the function's code, as it says.
        handlers: Its handlers, as `versions.target` names them.
        requests: How many requests are under way.
        problem: Why it gets no requests; None: it gets them.
    """

    service: str
    url: str
    build: str
    handlers: tuple[str, ...]
    requests: int
    problem: str | None


class RemoteFunctions(Protocol):
    """The functions of an app's remote services."""

    def statuses(self) -> Sequence[FunctionStatus]:
        """What is known of each."""
        ...

    async def refresh(self, service: str) -> FunctionStatus:
        """Read again which handlers a function has.

        Raises:
            NotFound: There is no such remote service.
            OperatorError: It does not answer, or has what can't be served; what was known stays.
        """
        ...


class Hints(Protocol):
    """Messages between the instances that share the store. Any may be lost: the rows are authoritative."""

    def send(self, instance_id: str, hint: Hint) -> None:
        """Send a hint to an instance, soon; never waits, and never fails."""
        ...

    def listen(self, instance_id: str, on_hints: Callable[[Sequence[Hint]], None]) -> None:
        """From now on, call this with hints for this instance, or with none when some may have been lost."""
        ...


class Store(
    Commits,
    HandlerReader,
    SettlementReader,
    OutboxReader,
    OffsetReader,
    ScheduleReader,
    Watermark,
    RetentionReader,
    Inspection,
    Protocol,
):
    """All ports of a store, with opening and closing."""

    @property
    def membership(self) -> Membership: ...

    @property
    def hints(self) -> Hints: ...

    async def open(self) -> None:
        """Open the store; a new one is created, an older one migrated.

        Raises:
            StoreLocked: Another process has it open.
            StoreTooNew: A newer release wrote it.
            StoreOfAnotherApp: It belongs to another app.
        """
        ...

    async def close(self) -> None:
        """Finish what has started, then close."""
        ...


class Snapshot(Protocol):
    """All rows of a store as of one instant, table by table."""

    @property
    def now_ms(self) -> int:
        """The instant, by the store's clock."""
        ...

    def invocations(self) -> Pages[Invocation]:
        """By ID."""
        ...

    def chunks(self) -> Pages[Chunk]:
        """All journals, by the invocation's ID and the version."""
        ...

    def chunks_of(self, invocation_ids: Sequence[str]) -> Pages[Chunk]:
        """The journals of these invocations, in any order."""
        ...

    def awakeables(self) -> Pages[AwakeableRow]:
        """By ID."""
        ...

    def invocations_with(self, invocation_ids: Sequence[str]) -> Pages[Invocation]:
        """Those of these invocations that have a row, in any order."""
        ...

    def awakeables_with(self, awakeable_ids: Sequence[str]) -> Pages[AwakeableRow]:
        """Those of these awakeables that have a row, in any order."""
        ...

    def effects(self, state: EffectState) -> Pages[EffectRow]:
        """Those in a state, each stream's together; without key, value and headers."""
        ...

    def dead_letters(self) -> Pages[DeadLetter]:
        """By source; without key, value, headers and acts."""
        ...

    def idempotency_keys(self) -> Pages[KeyRow]:
        """By scope and key."""
        ...

    def positions(self) -> Pages[PositionRow]:
        """By topic and partition."""
        ...

    def objects(self) -> Pages[ObjectRow]:
        """The queues of objects' keys."""
        ...

    async def versions(self, invocation_ids: Sequence[str]) -> dict[str, int]:
        """The versions of those of these invocations that have a row."""
        ...

    async def schema_hashes(self) -> frozenset[str]:
        """The hashes of all schemas."""
        ...

    async def instances(self) -> list[Instance]:
        """The instances that share the store; none if it can't be shared."""
        ...


class Audit(Protocol):
    """Reads a whole store, also beside a service that has it open; changes nothing."""

    async def look(self, work: Callable[[Snapshot], Awaitable[T]]) -> T:
        """Do work over a snapshot; meanwhile the service goes on.

        Raises:
            OperatorError: The store can't be served by this release, or is not there.
            StoreUnavailable: It can't be read.
        """
        ...


PublishReport: TypeAlias = Callable[[Sequence[Effect], Exception | None], None]
"""Called with effects whose outcome is known: None if they are published, or an error.

`PublishRefused`: they can never be published as they are. `BrokerUnavailable`: they may or may not
have been published; try again. Any other error: they can't be encoded as records at all.
"""


class Publisher(Protocol):
    """Publishes to Kafka."""

    async def publish(self, effects: Sequence[Effect], report: PublishReport) -> None:
        """Publish records; a record is published when every in-sync replica has it.

        They are published in no particular order. `report` is called as outcomes become known, with
        each effect exactly once, so that none waits for a slower one; the call returns after the last.
        """
        ...

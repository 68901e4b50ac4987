"""The ports: everything that the engine asks of the world, on one page.

A store is seven small ports. Writing is one verb: `Commits.commit` takes orders as data
(`core/commands.py`) and applies them in one transaction, so that one group commit serves every
kind of write and a fault can be put before or after it in one place
(docs/adr/0002-one-write-verb.md). The six others only read; what they return was committed.

Every verb of a store may raise `StoreUnavailable`; `commit` may raise `StoreRefused` too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from awakeables.core.awakeables import AwakeableRow, Codec, State
from awakeables.core.commands import Command, Ended
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Effect, EffectState, QueuedEffect
from awakeables.core.invocations import Invocation, Status
from awakeables.core.journal import Entry
from awakeables.core.outcomes import Outcome
from awakeables.core.records import Record
from awakeables.core.replies import Position, Reply


class Clock(Protocol):
    """Time, handed in."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        ...


class Entropy(Protocol):
    """Chance, handed in."""

    def bytes(self, count: int) -> bytes:
        """`count` unpredictable bytes."""
        ...


class Commits(Protocol):
    """The one way to write."""

    async def commit(self, commands: Sequence[Command]) -> list[Reply]:
        """Apply members in order, in one durable transaction; an answer per member, in order.

        When it returns, everything is on disk. When it raises `StoreUnavailable`, all or nothing
        of it may be: send the same members again. When it raises `StoreRefused`, nothing is, and
        at least one member can never be: the caller bisects.
        """
        ...


class JournalReader(Protocol):
    """What an owner needs to go on with an invocation."""

    async def history(self, invocation_ids: Sequence[str]) -> dict[str, list[Entry]]:
        """The whole journals of these invocations."""
        ...

    async def outcomes(self, awakeable_ids: Sequence[str]) -> dict[str, Outcome]:
        """The outcomes of those of these awakeables that are settled."""
        ...

    async def held_by(self, owner: str) -> list[str]:
        """The invocations that are running under this owner."""
        ...


class Expectation(Record):
    """What a value must be to resolve an awakeable, and whose it is."""

    invocation_id: str
    codec: Codec
    type_name: str | None
    schema_hash: str | None
    schema: bytes | None


class SettlementReader(Protocol):
    """What the edge needs to check a value before it is settled."""

    async def expectations(self, awakeable_ids: Sequence[str]) -> dict[str, Expectation]:
        """What these awakeables expect; those without a row are left out."""
        ...


class OutboxReader(Protocol):
    """What is still to be published."""

    async def effects(self, owner: str, limit: int) -> list[Effect]:
        """Unsent effects that this owner has claimed, those of each stream in order of their positions.

        Of the streams that have the oldest effects; a limit cuts off only what comes later in its stream.
        """
        ...


class RetentionReader(Protocol):
    """What may be forgotten."""

    async def ended(self, before_ms: int, limit: int) -> list[Ended]:
        """Invocations that ended at or before this, the longest ended first.

        As many as have `limit` chunks of journal together; one that has more comes alone.
        """
        ...


class OffsetReader(Protocol):
    """How far the completions topic was read."""

    async def positions(self, topic: str) -> list[Position]:
        """The position of each partition that was ever read."""
        ...


class Page(Record):
    """Which part of a list: `limit` rows from the newest, before the ID `before`."""

    limit: int = 50
    before: str | None = None


class Inspection(Protocol):
    """What people and programs look at; newest first.

    The rows of lists are brief (core/brief.py): without keys, values, headers, details and answers.
    """

    async def invocation(self, invocation_id: str) -> Invocation | None: ...

    async def invocations(
        self, page: Page, *, status: Status | None = None, service: str | None = None
    ) -> list[Invocation]: ...

    async def keyed(self, scopes: Sequence[str], key: str) -> list[Invocation]:
        """The invocations that an idempotency key stands for in any of these scopes, newest first."""
        ...

    async def idempotency_key(self, invocation_id: str) -> str | None:
        """The key under which an invocation was begun; None: without one."""
        ...

    async def journal(self, invocation_id: str, most_bytes: int) -> tuple[list[Entry], bool]:
        """The beginning of a journal, of `most_bytes` and the chunk that ends it; and is that all?"""
        ...

    async def awakeable(self, awakeable_id: str) -> AwakeableRow | None: ...

    async def awakeables(self, page: Page, *, state: State | None = None) -> list[AwakeableRow]: ...

    async def dead_letter(self, dead_letter_id: str) -> DeadLetter | None: ...

    async def dead_letters(self, page: Page) -> list[DeadLetter]: ...

    async def queued_effect(self, event_id: str) -> QueuedEffect | None: ...

    async def queued_effects(self, page: Page, *, state: EffectState) -> list[QueuedEffect]: ...

    async def counts(self) -> Mapping[str, int]:
        """How much there is; a store that is a file answers in time that does not grow with it.

        `awakeables_pending`, `invocations_open` and those of each open status
        (`invocations_<status>`), `effects_unsent`, `effects_failed`, `dead_letters`; and when the
        oldest by its ID was made, left out where there is none: `awakeables_oldest_ms` (pending ones),
        `effects_oldest_ms` (unsent ones).
        """
        ...


class Store(
    Commits,
    JournalReader,
    SettlementReader,
    OutboxReader,
    OffsetReader,
    RetentionReader,
    Inspection,
    Protocol,
):
    """All of it; also opened and closed."""

    async def open(self) -> None:
        """Be ready to serve; a new store is made, an older one migrated.

        Raises:
            StoreLocked: Another process has it open.
            StoreTooNew: A newer release has written it.
            StoreOfAnotherApp: It is another app's.
        """
        ...

    async def close(self) -> None:
        """Finish what was begun and let go."""
        ...


PublishReport: TypeAlias = Callable[[Sequence[Effect], Exception | None], None]
"""Called with effects whose outcome is known: None once they are published, or an error.

`PublishRefused`: they can never be published as they are. `BrokerUnavailable`: they may or may not
have been published; try again. Any other error: they can't be written as records at all.
"""


class Publisher(Protocol):
    """The way out to Kafka."""

    async def publish(self, effects: Sequence[Effect], report: PublishReport) -> None:
        """Publish records; published is what every in-sync replica has.

        There is no order among them. `report` is called as outcomes become known, with each effect
        exactly once, so that none waits for a slower one; the call returns after the last of them.
        """
        ...

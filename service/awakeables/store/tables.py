"""The rows of a store inside one transaction: what `apply` reads and writes.

One object of this kind lives as long as its transaction. What was put is seen by every later
read of the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from awakeables.core.acts import Acts
from awakeables.core.awakeables import Awakeable
from awakeables.core.invocations import Invocation
from awakeables.core.orders import DeadLetter, Effect, Idempotency, Position, QueuedEffect


class Tables(Protocol):
    """Rows by their keys, and the few searches that the engine needs."""

    def invocation(self, invocation_id: str) -> Invocation | None: ...

    def put_invocation(self, row: Invocation) -> None: ...

    def due(self, now_ms: int, limit: int, *, suspects: bool) -> list[Invocation]:
        """Those with `due_ms` at or before now, by `due_since_ms`: suspects, or the others."""
        ...

    def running(self) -> list[Invocation]:
        """Those that have an owner."""
        ...

    def add_chunk(self, invocation_id: str, version: int, chunk: bytes, at_ms: int) -> None:
        """Append the chunk that made the journal this version, and when it was committed."""
        ...

    def chunks(self, invocation_id: str) -> list[bytes]:
        """A whole journal."""
        ...

    def forget(self, invocation_ids: Sequence[str], awakeable_ids: Sequence[str]) -> None:
        """Delete invocations with their journals and idempotency keys, and awakeables."""
        ...

    def idempotent(self, scope: str, key: str) -> tuple[str, str] | None:
        """The fingerprint and the invocation that an idempotency key stands for."""
        ...

    def add_idempotent(self, idempotency: Idempotency, invocation_id: str) -> None: ...

    def awakeable(self, awakeable_id: str) -> Awakeable | None: ...

    def put_awakeable(self, row: Awakeable) -> None: ...

    def overdue(self, horizon_ms: int, limit: int) -> list[Awakeable]:
        """Pending ones whose deadline is at or before the horizon, the oldest deadline first."""
        ...

    def add_schema(self, schema_hash: str, schema: bytes) -> None:
        """Keep a schema; one that is there already is left alone."""
        ...

    def add_effect(self, effect: Effect, owner: str) -> None:
        """Queue an unsent effect, claimed by an owner; an event ID that is there is left alone."""
        ...

    def unclaimed(self, owner: str, limit: int) -> list[Effect]:
        """Unsent effects that are not this owner's, oldest first; from now on they are."""
        ...

    def effect(self, event_id: str) -> Effect | None:
        """An unsent effect."""
        ...

    def drop_effect(self, event_id: str) -> None: ...

    def fail_effect(self, event_id: str, reason: str) -> None:
        """Keep an effect as failed."""
        ...

    def queued_effect(self, event_id: str) -> QueuedEffect | None:
        """An effect, unsent or failed."""
        ...

    def requeue_effect(self, event_id: str, owner: str, acts: Acts) -> None:
        """Make a failed effect unsent again, claimed by an owner; the reason is forgotten."""
        ...

    def has_dead_letter(self, source: str) -> bool: ...

    def add_dead_letter(self, letter: DeadLetter) -> None: ...

    def dead_letter(self, dead_letter_id: str) -> DeadLetter | None: ...

    def put_dead_letter(self, letter: DeadLetter) -> None:
        """Note how often a dead letter was sent again, by whom, and what it stands for."""
        ...

    def forget_letters(self, before_ms: int, limit: int, code: str | None) -> int:
        """Delete the oldest dead letters, of a code or all, whose ID was made before; how many."""
        ...

    def forget_refused(self, before_ms: int, limit: int) -> int:
        """Delete the oldest refused effects whose ID was made before, at most `limit` of each kind."""
        ...

    def position(self, topic: str, partition: int) -> Position | None: ...

    def put_position(self, topic: str, position: Position, owner: str | None = None) -> None:
        """Set where a partition is read on; an owner is noted when it takes the partition."""
        ...

    def probe(self) -> None:
        """Make the transaction write to the disk, as one that adds a row does; every row stays as it is."""
        ...

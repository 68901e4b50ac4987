"""The instances of an app that share a store, and what each of them may run."""

from __future__ import annotations

from typing import Literal, TypeAlias

from awakeables.core.records import Record

InstanceState: TypeAlias = Literal["alive", "leaving", "dead"]

LEVEL = 1
"""What this release understands: kinds of rows that a later level brings begin once all instances have it."""


class Instance(Record):
    """One run of the service.

    Attributes:
        id: New for each start, and again after it was declared dead: who is dead stays dead.
        host: The host's name and the process's number, for people.
        build: The version of the code.
        build_since_ms: When that build was first seen; a later one is newer.
        level: What its code understands.
        handlers: Those it serves, as `versions.target` names them.
        beat_ms: Its last heartbeat, by the store's clock.
    """

    id: str
    host: str = ""
    build: str = ""
    build_since_ms: int = 0
    level: int = LEVEL
    handlers: tuple[str, ...] = ()
    started_ms: int = 0
    beat_ms: int = 0
    state: InstanceState = "alive"


class HeartbeatReply(Record):
    """The answer to a heartbeat: the store's clock, and the instances that live, this one included."""

    now_ms: int
    living: tuple[Instance, ...]


class PartitionRead(Record):
    """Up to when an instance has read a partition that it holds.

    Attributes:
        epoch: The epoch of its claim; nothing is noted for a partition that was claimed since.
        up_to_ms: All that was in the partition at that moment, by the store's clock, has been settled. A
            moment and not an age, since what is noted may be late on its way to the store.
    """

    partition: int
    epoch: int
    up_to_ms: int


HintKind: TypeAlias = Literal["woken", "cancelled", "ended"]


class Hint(Record):
    """What one instance tells another, so that it need not wait for its sweep; it may be lost.

    Attributes:
        kind: `woken` and `cancelled`: to the owner of a running invocation. `ended`: to the instance whose
            caller waits for the result.
        wake: The invocation's wake-up by its sequence number.
        awakeable_id: Whose outcome woke it.
    """

    kind: HintKind
    invocation_id: str
    wake: int = 0
    awakeable_id: str = ""


def newer_builds(me: Instance, living: tuple[Instance, ...]) -> tuple[str, ...]:
    """The builds that are newer than this instance's and have a living instance (hard case 13).

    What such a build wrote last, an older one leaves alone: it may not know its journal's entries.
    """
    newer = {
        each.build
        for each in living
        if each.build != me.build and (each.build_since_ms, each.build) > (me.build_since_ms, me.build)
    }
    return tuple(sorted(newer))


def served_elsewhere(me: Instance, living: tuple[Instance, ...]) -> tuple[str, ...]:
    """The handlers that other living instances serve and this one doesn't."""
    others = {handler for each in living if each.state == "alive" for handler in each.handlers}
    return tuple(sorted(others - set(me.handlers)))

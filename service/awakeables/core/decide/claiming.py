"""Decisions on ownership and time: claim, release, dry replays, deadlines, partitions."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from awakeables.core import awakeables, invocations
from awakeables.core.awakeables import AwakeableRow
from awakeables.core.commands import Claim, Expire, Release, ReplayDry, TakeOver, TakePartitions
from awakeables.core.invocations import Invocation
from awakeables.core.objects import DELAYED
from awakeables.core.records import Record
from awakeables.core.replies import Claimed, DryReplayed, Expired, PartitionsTaken, Released
from awakeables.core.rows import Changes, EffectRow, PositionRow, Rows


class Due(Record):
    """What a store has found for a claim: due invocations, and unsent effects of theirs that others hold."""

    invocations: Sequence[Invocation]
    effects: Sequence[EffectRow] = ()


def claim(command: Claim, found: Due, now_ms: int, changes: Changes) -> Claimed:
    """Give the due invocations that were found to the owner; pause those that crash their owners.

    What is due and exclusive, but was delayed, has to take its place first.
    """
    due = [row for row in found.invocations if row.ticket != DELAYED]
    arrived = tuple(row.id for row in found.invocations if row.ticket == DELAYED)
    claimed = [invocations.claim(row, owner=command.owner, now_ms=now_ms) for row in due]
    for before, row in zip(due, claimed, strict=True):
        changes.put_invocation(before, row)
    for effect in found.effects:
        changes.put_effect(effect, replace(effect, claimed_by=command.owner))
    effect_ids = tuple(row.event_id for row in found.effects)
    return Claimed(invocations=tuple(claimed), effect_ids=effect_ids, arrived=arrived)


def release(command: Release, rows: Rows, now_ms: int, changes: Changes) -> Released:
    """Release those of these invocations that this owner holds."""
    rows.invocations.require(command.ids)
    found = (rows.invocations[key] for key in dict.fromkeys(command.ids))
    held = [row for row in found if row and row.status == "running" and row.owner == command.owner]
    return _released(held, now_ms, changes)


def take_over(command: TakeOver, found: Sequence[Invocation], now_ms: int, changes: Changes) -> Released:
    """Release the running invocations that were found, whose owners don't live."""
    return _released(found, now_ms, changes)


def _released(held: Sequence[Invocation], now_ms: int, changes: Changes) -> Released:
    for row in held:
        changes.put_invocation(row, invocations.release(row, now_ms=now_ms))
    return Released(count=len(held))


def replay_dry(command: ReplayDry, rows: Rows, now_ms: int, changes: Changes) -> DryReplayed:
    """Count a dry replay as a start while it runs."""
    row = rows.invocations[command.invocation_id]
    counted = None if row is None else invocations.replay_dry(row, ends=command.ends)
    if counted is not None:
        changes.put_invocation(row, counted)
    return DryReplayed(invocation=counted)


def horizon_of(command: Expire, now_ms: int) -> int:
    """The instant that deadlines are compared with (hard case 5)."""
    return now_ms if command.held_back_to_ms is None else min(now_ms, command.held_back_to_ms)


def expire(command: Expire, found: Sequence[AwakeableRow], now_ms: int, changes: Changes) -> Expired:
    """Time out the awakeables that were found to be overdue."""
    horizon_ms = horizon_of(command, now_ms)
    expired = [(row, awakeables.expire(row, now_ms=now_ms, horizon_ms=horizon_ms)) for row in found]
    changes.require_waiting([row.invocation_id for row, after in expired if after is not None])
    wakes = []
    for row, after in expired:
        if after is not None and after.outcome is not None:
            changes.put_awakeable(row, after)
            wakes.append(changes.wake(after, after.outcome, now_ms))
    return Expired(wakes=tuple(wakes))


def take_partitions(command: TakePartitions, rows: Rows, now_ms: int, changes: Changes) -> PartitionsTaken:
    """Increment the epochs of these partitions, which fences their previous reader."""
    places = [(command.subscription, command.topic, partition) for partition in command.partitions]
    rows.positions.require(places)
    positions = []
    for place in places:
        before = rows.positions[place]
        held = before or PositionRow(*place)
        if command.topic_id not in (None, held.topic_id) and (held.topic_id is None or held.next == 0):
            # Of another topic nothing was read, so nothing can be taken for its records.
            again_before = held.again_before if held.topic_id is None else 0
            held = replace(held, topic_id=command.topic_id, again_before=again_before)
        row = replace(held, epoch=held.epoch + 1, owner=command.owner)
        changes.put_position(before, row)
        positions.append(row.position)
    return PartitionsTaken(positions=tuple(positions))

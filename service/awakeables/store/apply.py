"""What each order does to the rows: shared by the stores with one writer (memory, SQLite).

Every decision is the core's; this module loads the rows that a decision needs and puts back
what came out of it, all inside the transaction that the adapter has opened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import assert_never

from msgspec.structs import replace

from awakeables.core import awakeables, invocations
from awakeables.core.acts import noted
from awakeables.core.awakeables import Awakeable, Completion, DeadTask, Verdict
from awakeables.core.deadletters import divided, less
from awakeables.core.ids import parse_id
from awakeables.core.invocations import End, Invocation
from awakeables.core.orders import (
    Advance,
    Advanced,
    Answer,
    Begin,
    Begun,
    Cancel,
    Claim,
    Claimed,
    ClaimedEffects,
    ClaimEffects,
    DeadLetter,
    DryReplayed,
    Effect,
    Expire,
    Expired,
    Fenced,
    KeyConflict,
    Kill,
    Member,
    Noted,
    PartitionFence,
    Position,
    Probe,
    Purge,
    PurgeLetters,
    Refused,
    Release,
    Released,
    ReplayDry,
    Republish,
    Resend,
    Resume,
    Sent,
    Settle,
    SettledAll,
    Skip,
    Taken,
    TakePartitions,
    Unchecked,
    Wake,
)
from awakeables.core.outcomes import publish_failed
from awakeables.store.operate import ABANDONED, UNCLAIMED, bury, call_off, operate
from awakeables.store.tables import Tables
from awakeables.wire.verdicts import encode_verdict

VERDICTS = "prom_1"
"""Streams of verdicts begin so: each is named after its awakeable."""


def apply(members: Sequence[Member], tables: Tables, *, now_ms: int, retention_ms: int) -> list[Answer]:
    """Apply the members of a group commit in order; an answer for each."""
    return [_apply(member, tables, now_ms, retention_ms) for member in members]


def _apply(member: Member, tables: Tables, now_ms: int, retention_ms: int) -> Answer:
    match member:
        case Advance():
            return _advance(member, tables, now_ms)
        case Begin():
            return _begin(member, tables, now_ms)
        case Settle():
            return _settle(member, tables, now_ms, retention_ms)
        case Sent():
            for event_id in member.event_ids:
                tables.drop_effect(event_id)
            return Noted()
        case Claim():
            return _claim(member, tables, now_ms)
        case Expire():
            return _expire(member, tables, now_ms)
        case Release() | ReplayDry():
            return _let_run(member, tables, now_ms)
        case (
            Resume()
            | Cancel()
            | Kill()
            | Purge()
            | PurgeLetters()
            | Resend()
            | Republish()
            | Skip()
            | Probe()
        ):
            return operate(member, tables, now_ms=now_ms)
        case TakePartitions():
            return _take(member, tables)
        case ClaimEffects():
            return ClaimedEffects(effects=tuple(tables.unclaimed(member.owner, member.limit)))
        case Refused():
            return _refuse(member, tables, now_ms)
        case _:
            assert_never(member)


def _begin(order: Begin, tables: Tables, now_ms: int) -> Begun | KeyConflict:
    if tables.invocation(order.id) is not None:
        return Begun(id=order.id, created=True)
    if order.idempotency is not None:
        known = tables.idempotent(order.idempotency.scope, order.idempotency.key)
        if known is not None:
            fingerprint, invocation_id = known
            if fingerprint != order.idempotency.fingerprint:
                return KeyConflict(id=invocation_id)
            return Begun(id=invocation_id, created=False)
        tables.add_idempotent(order.idempotency, order.id)
    row = Invocation(
        id=order.id,
        service=order.service,
        handler=order.handler,
        key=order.key,
        build=order.build,
        created_ms=now_ms,
        updated_ms=now_ms,
        due_ms=now_ms + order.delay_ms if order.delay_ms else invocations.at_once(now_ms),
        acts=noted((), "begin", order.by, now_ms),
    )
    if order.owner is not None:
        row = invocations.claim(row, owner=order.owner, now_ms=now_ms)
    tables.put_invocation(row)
    tables.add_chunk(order.id, 1, order.chunk, now_ms)
    return Begun(id=order.id, created=True)


def _claim(order: Claim, tables: Tables, now_ms: int) -> Claimed:
    suspects = tables.due(now_ms, 1, suspects=True) if order.suspect else []
    others = tables.due(now_ms, order.limit - len(suspects), suspects=False)
    rows = [invocations.claim(row, owner=order.owner, now_ms=now_ms) for row in (*suspects, *others)]
    for row in rows:
        tables.put_invocation(row)
    return Claimed(invocations=tuple(rows))


def _advance(order: Advance, tables: Tables, now_ms: int) -> Advanced | Fenced:
    row = tables.invocation(order.invocation_id)
    if row is None:
        return Fenced()
    if row.commit_id == order.commit_id:
        # The same commit again is not a stale owner's: its acknowledgement was lost (hard case 3).
        return _again(order, row, tables)
    if not invocations.owns(row, owner=order.owner, epoch=order.epoch, version=order.version):
        return Fenced()
    row = invocations.advance(
        row,
        order.next,
        grows=order.chunk is not None,
        commit_id=order.commit_id,
        build=order.build,
        now_ms=now_ms,
    )
    tables.put_invocation(row)
    if order.chunk is not None:
        tables.add_chunk(row.id, row.version, order.chunk, now_ms)
    for schema_hash, schema in order.schemas:
        tables.add_schema(schema_hash, schema)
    for new in order.awakeables:
        deadline_ms = None if new.timeout_ms is None else now_ms + new.timeout_ms
        tables.put_awakeable(
            Awakeable(
                id=new.id,
                invocation_id=row.id,
                created_ms=now_ms,
                codec=new.codec,
                type_name=new.type_name,
                schema_hash=new.schema_hash,
                deadline_ms=deadline_ms,
            )
        )
    effects = tuple(_dated(effect, tables) for effect in order.effects)
    for effect in effects:
        tables.add_effect(effect, order.owner)
    if isinstance(order.next, End):
        for awakeable_id in order.next.abandoned:
            call_off(awakeable_id, ABANDONED, tables, now_ms)
    return Advanced(invocation=row, effects=effects)


def _again(order: Advance, row: Invocation, tables: Tables) -> Advanced:
    """The answer whose acknowledgement was lost; effects that were sent meanwhile are left out."""
    queued = (tables.effect(effect.event_id) for effect in order.effects)
    return Advanced(invocation=row, effects=tuple(effect for effect in queued if effect is not None))


def _dated(effect: Effect, tables: Tables) -> Effect:
    """Note where the task goes, and in the task its awakeable's deadline, which only the row knows."""
    row = tables.awakeable(effect.task.awakeable_id) if effect.task else None
    if row is None or effect.task is None:
        return effect
    if row.topic is None:
        tables.put_awakeable(replace(row, topic=effect.topic))
    if row.deadline_ms is None:
        return effect
    return replace(effect, task=replace(effect.task, deadline_ms=row.deadline_ms))


def _settle(order: Settle, tables: Tables, now_ms: int, retention_ms: int) -> SettledAll | Fenced | Unchecked:
    held = _held(order.fence, tables)
    if order.fence is not None and held is None:
        return Fenced()
    unchecked = tuple(c.awakeable_id for c in order.completions if _needs_check(c, tables))
    if unchecked:
        return Unchecked(awakeable_ids=unchecked)
    horizon_ms = now_ms if order.held_back_to_ms is None else min(now_ms, order.held_back_to_ms)
    verdicts: list[Verdict | None] = []
    wakes: list[Wake] = []
    letters = list(order.dead_letters)
    reports: list[int] = []
    again: set[int] = set()
    for place, completion in enumerate(order.completions):
        row = tables.awakeable(completion.awakeable_id)
        reread = held is not None and bool(order.offsets) and order.offsets[place] < held.again_before
        if row is None:
            issued_ms = parse_id(completion.awakeable_id, "prom")
            verdict: Verdict | None = awakeables.without_row(
                completion, issued_ms=issued_ms, now_ms=now_ms, retention_ms=retention_ms
            )
        else:
            result = awakeables.settle(row, completion, now_ms=now_ms, horizon_ms=horizon_ms, again=reread)
            verdict, reread = result.verdict, result.again
            if result.awakeable is not row:
                tables.put_awakeable(result.awakeable)
            if place in order.dead_tasks and result.awakeable.state == "pending":
                reports.append(place)
            if result.settled:
                wakes.append(_wake(result.awakeable, tables, now_ms))
        verdicts.append(verdict)
        if reread:
            again.add(place)
        if verdict is not None and verdict.kind in ("unknown", "invalid") and place in order.originals:
            letters.append(_because(order.originals[place], verdict))
    filed, left = _file(order, reports, tables, now_ms)
    room = order.folding and less(order.folding, filed, used_up=bool(left))
    letters += left
    letters.sort(key=lambda letter: letter.offset)
    buried, folded = bury(letters, order.relay_to, tables, now_ms, room)
    news = [None if place in again else verdict for place, verdict in enumerate(verdicts)]
    untold = _tell_verdicts(order, news, tables, now_ms) if order.verdicts_to else 0
    if order.fence is not None and held is not None:
        tables.put_position(order.fence.topic, replace(held, next=order.fence.next))
    return SettledAll(
        verdicts=tuple(verdicts),
        wakes=tuple(wakes),
        dead_letters=(*buried, *filed),
        folded=_by_code(folded),
        untold=untold,
        again=frozenset(again),
    )


def _by_code(letters: Sequence[DeadLetter]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for letter in letters:
        counts[letter.code] += letter.count
    return counts


def _file(
    order: Settle, reports: Sequence[int], tables: Tables, now_ms: int
) -> tuple[list[DeadLetter], list[DeadLetter]]:
    """Keep tasks that workers could not use, each once, and note them where the wait is.

    Returns:
        Those that were added, and the reports, as records of their topic, that there is no room for.
    """
    new = {order.dead_tasks[place].source: place for place in reversed(reports)}
    places = [place for source, place in reversed(new.items()) if not tables.has_dead_letter(source)]
    letters = [order.dead_tasks[place] for place in places]
    kept, left = (letters, []) if order.folding is None else divided(letters, order.folding)
    for letter in kept:
        tables.add_dead_letter(letter)
    for place in places:
        completion, letter = order.completions[place], order.dead_tasks[place]
        row = tables.awakeable(completion.awakeable_id)
        assert row is not None, completion
        assert isinstance(completion.body, DeadTask), completion
        into = order.folding.into if order.folding is not None and letter in left else letter.id
        noted_row = awakeables.note_dead_task(
            row, completion.body, dead_letter_id=into, worker=completion.worker, now_ms=now_ms
        )
        tables.put_awakeable(noted_row)
    return kept, [order.originals[place] for place in places[len(kept) :]]


def _tell_verdicts(order: Settle, verdicts: Sequence[Verdict | None], tables: Tables, now_ms: int) -> int:
    """Queue the verdicts for their topic, in the transaction that decides them; how many are left out.

    What settles an awakeable is always told. Anything else could be sent without end.
    """
    room = len(verdicts) if order.folding is None else order.folding.tell
    untold = 0
    for event_id, verdict in zip(order.verdict_ids, verdicts, strict=True):
        if verdict is None:
            continue
        if verdict.kind != "accepted":
            room -= 1
            if room < 0:
                untold += 1
                continue
        effect = Effect(
            event_id=event_id,
            stream=verdict.awakeable_id,
            topic=order.verdicts_to,
            key=verdict.awakeable_id.encode(),
            value=encode_verdict(verdict),
            created_ms=now_ms,
        )
        tables.add_effect(effect, UNCLAIMED)
    return untold


def _held(fence: PartitionFence | None, tables: Tables) -> Position | None:
    """The batch's partition, if the batch is the holder's and was not committed before (K1)."""
    held = fence and tables.position(fence.topic, fence.partition)
    return held if fence and held and _is_next(fence, held) else None


def _is_next(fence: PartitionFence, held: Position) -> bool:
    return held.epoch == fence.epoch and held.next <= fence.first


def _needs_check(completion: Completion, tables: Tables) -> bool:
    row = tables.awakeable(completion.awakeable_id)
    return row is not None and awakeables.needs_check(row, completion)


def _because(original: DeadLetter, verdict: Verdict) -> DeadLetter:
    return replace(original, code=verdict.kind, reason=verdict.reason or original.reason)


def _wake(awakeable: Awakeable, tables: Tables, now_ms: int) -> Wake:
    """Count the wake-up in the transaction that causes it (hard case 1)."""
    row = tables.invocation(awakeable.invocation_id)
    assert row is not None, f"{awakeable.id} has no invocation"
    assert awakeable.outcome is not None
    row = invocations.wake(row, now_ms=now_ms)
    tables.put_invocation(row)
    return Wake(invocation_id=row.id, wake=row.wake, awakeable_id=awakeable.id, outcome=awakeable.outcome)


def _expire(order: Expire, tables: Tables, now_ms: int) -> Expired:
    horizon_ms = now_ms if order.held_back_to_ms is None else min(now_ms, order.held_back_to_ms)
    wakes = []
    for row in tables.overdue(horizon_ms, order.limit):
        expired = awakeables.expire(row, now_ms=now_ms, horizon_ms=horizon_ms)
        if expired is not None:
            tables.put_awakeable(expired)
            wakes.append(_wake(expired, tables, now_ms))
    return Expired(wakes=tuple(wakes))


def _let_run(order: Release | ReplayDry, tables: Tables, now_ms: int) -> Released | DryReplayed:
    return _release(order, tables, now_ms) if isinstance(order, Release) else _replay_dry(order, tables)


def _release(order: Release, tables: Tables, now_ms: int) -> Released:
    if order.ids is None:
        rows = [row for row in tables.running() if row.owner != order.owner]
    else:
        found = (tables.invocation(invocation_id) for invocation_id in order.ids)
        rows = [row for row in found if row and row.status == "running" and row.owner == order.owner]
    for row in rows:
        tables.put_invocation(invocations.release(row, now_ms=now_ms))
    return Released(count=len(rows))


def _replay_dry(order: ReplayDry, tables: Tables) -> DryReplayed:
    row = tables.invocation(order.invocation_id)
    counted = None if row is None else invocations.replay_dry(row, ends=order.ends)
    if counted is not None:
        tables.put_invocation(counted)
    return DryReplayed(invocation=counted)


def _take(order: TakePartitions, tables: Tables) -> Taken:
    positions = []
    for partition in order.partitions:
        held = tables.position(order.topic, partition) or Position(partition=partition, next=0, epoch=0)
        position = replace(held, epoch=held.epoch + 1)
        tables.put_position(order.topic, position, order.owner)
        positions.append(position)
    return Taken(positions=tuple(positions))


def _refuse(order: Refused, tables: Tables, now_ms: int) -> Noted:
    effect = tables.effect(order.event_id)
    if effect is None:
        return Noted()
    if effect.stream.startswith(VERDICTS):
        # It can be looked up (A2), and a missing topic would fill the file with its like.
        tables.drop_effect(order.event_id)
        return Noted()
    tables.fail_effect(order.event_id, order.reason)
    row = tables.awakeable(effect.task.awakeable_id) if effect.task else None
    if row is None or row.state != "pending":
        return Noted()
    completion = Completion(
        awakeable_id=row.id,
        body=publish_failed(effect.topic, order.reason),
        source=f"effect:{order.event_id}",
        event_id=order.event_id,
    )
    result = awakeables.settle(row, completion, now_ms=now_ms, horizon_ms=0)
    tables.put_awakeable(result.awakeable)
    return Noted(wakes=(_wake(result.awakeable, tables, now_ms),))

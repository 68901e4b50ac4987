"""Decisions on completions: verdicts, wake-ups, dead letters and the partition's offset, in one commit."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from awakeables.core import awakeables, invocations
from awakeables.core.awakeables import (
    LATE_LETTER,
    PROMISE,
    AwakeableRow,
    AwakeableState,
    Completion,
    DeadTask,
    Verdict,
    abridged,
)
from awakeables.core.commands import PartitionFence, Settle
from awakeables.core.deadletters import (
    LATE,
    DeadLetter,
    Folding,
    counted_up,
    fold,
    relay_copy,
    remaining,
    split,
)
from awakeables.core.effects import Effect
from awakeables.core.ids import SEED_BYTES, derived_id, parse_id
from awakeables.core.invocations import Invocation
from awakeables.core.journal import Input, encode_chunk
from awakeables.core.outcomes import NULL, Outcome, Resolution
from awakeables.core.records import Record, rfc3339
from awakeables.core.replies import Fenced, SettledAll, Unchecked, Wake
from awakeables.core.rows import UNCLAIMED, Changes, PositionRow, Rows, effect_row
from awakeables.core.versions import first_versions, parsed_target, versions_bytes

DROPPED: tuple[str, ...] = ("unknown", "invalid")
"""Verdicts that make a dead letter of the record."""


def settle(command: Settle, rows: Rows, now_ms: int, changes: Changes) -> SettledAll | Fenced | Unchecked:
    """Give each completion its verdict, in order."""
    fence, held = command.fence, None
    if fence is not None:
        held = rows.positions[fence.subscription, fence.topic, fence.partition]
        if held is None or not is_next(fence, held):
            return Fenced()
    batch = _Batch(command, rows, changes, now_ms, letters=list(command.dead_letters))
    unchecked = batch.judge(held.again_before if held is not None and command.offsets else 0)
    if unchecked:
        return Unchecked(awakeable_ids=tuple(unchecked))
    changes.require_waiting([row.invocation_id for row, _ in batch.settled])
    letters, filed, folded = batch.dead_letters() if batch.letters or batch.reports else ([], [], [])
    for key, row in batch.rows_after.items():
        changes.put_awakeable(rows.awakeables[key], row)
    wakes: list[Wake] = []
    for row, outcome in batch.settled:
        wakes.append(changes.wake(row, outcome, now_ms))
    for letter in filed:
        changes.put_dead_letter(None, letter)
    if letters:
        add_dead_letters(letters, command.relay_to, now_ms, changes)
    if batch.counted is not None:
        changes.put_dead_letter(*batch.counted)
    unpublished = _publish_verdicts(batch, changes) if command.verdicts_to else 0
    for invocation, chunk in batch.late:
        changes.put_invocation(None, invocation)
        changes.chunks.append((invocation.id, 1, chunk, now_ms))
    if fence is not None and held is not None:
        changes.put_position(held, replace(held, next=fence.next))
    return SettledAll(
        verdicts=tuple(batch.verdicts),
        wakes=tuple(wakes),
        dead_letters=(*letters, *filed),
        folded=by_code(folded) if folded else {},
        unpublished=unpublished,
        again=frozenset(batch.again),
        begun=tuple([invocation.id for invocation, _ in batch.late]) if batch.late else (),
    )


def is_next(fence: PartitionFence, held: PositionRow) -> bool:
    """Whether the batch is from the partition's current owner and was not committed before (K1)."""
    return held.epoch == fence.epoch and held.owner == fence.owner and held.next <= fence.first


class LateAnswer(Record):
    """The input of a handler that a late answer begins."""

    value: Raw
    awakeable_id: str
    invocation_id: str
    state: AwakeableState
    at: str
    worker: str | None = None


class _Batch(msgspec.Struct):
    """The verdicts on one command's completions: decided, not yet written.

    Attributes:
        letters: Dead letters of records that could not be read, or whose verdict makes them one.
        reports: Indices of completions that report a dead task of a pending awakeable.
        settled: The rows that were settled and their outcomes, in order.
        rows_after: The changed rows, by ID.
        again: Indices of completions that had their verdict before.
        counts: For each completion, how many verdicts its awakeable has by then.
        counted: The row that counts dead letters, before and after; None: it is new or unchanged.
        late: The invocations that late answers begin, and their journals.
    """

    command: Settle
    rows: Rows
    changes: Changes
    now_ms: int
    letters: list[DeadLetter]
    reports: list[int] = []
    verdicts: list[Verdict | None] = []
    counts: list[int] = []
    settled: list[tuple[AwakeableRow, Outcome]] = []
    rows_after: dict[str, AwakeableRow] = {}
    again: set[int] = set()
    counted: tuple[DeadLetter, DeadLetter] | None = None
    late: list[tuple[Invocation, bytes]] = []

    def judge(self, again_before: int) -> list[str]:
        """Decide each completion's verdict; return the awakeables whose values must be checked first.

        Args:
            again_before: Completions at lower offsets were read before.
        """
        command, rows, now_ms = self.command, self.rows, self.now_ms
        horizon_ms = now_ms if command.held_back_to_ms is None else min(now_ms, command.held_back_to_ms)
        unchecked: list[str] = []
        for place, completion in enumerate(command.completions):
            key = completion.awakeable_id
            row = rows.awakeables[key]
            if row is not None and row.source_utf8 is not None:
                # A wait for a call, which only the call's end settles; or a promise.
                row = row if completion.of_promise and row.source_utf8 == PROMISE else None
            reread, count = again_before > 0 and command.offsets[place] < again_before, 0
            if row is None:
                verdict: Verdict | None = awakeables.verdict_without_row(
                    completion,
                    issued_ms=parse_id(key, "prom") or now_ms,  # a promise's ID has no instant
                    now_ms=now_ms,
                    retention_ms=rows.retention_ms,
                )
            else:
                # Cheap test first: most completions were checked against the row's schema.
                if row.schema_hash != completion.checked and awakeables.needs_check(row, completion):
                    unchecked.append(key)
                    continue
                row = self.rows_after.get(key, row)
                result = awakeables.settle(
                    row, completion, now_ms=now_ms, horizon_ms=horizon_ms, again=reread
                )
                verdict, reread, count = result.verdict, result.again, result.count
                after = result.awakeable
                if result.late is not None:
                    after = self._take_late(after, result.late, completion, place)
                if after is not row:
                    self.rows_after[key] = after
                if place in command.dead_tasks and after.state == "pending":
                    self.reports.append(place)
                if result.settled:
                    # An answer that came after the deadline has timed the row out: the verdict carries
                    # that outcome then, as it carries the answer when it is accepted.
                    outcome = verdict.outcome if verdict is not None else after.outcome
                    assert outcome is not None
                    if after.source_utf8 == PROMISE:
                        self._settle_waits(after, outcome)
                    else:
                        self.settled.append((after, outcome))
            self.verdicts.append(verdict)
            self.counts.append(count)
            if reread:
                self.again.add(place)
            if verdict is not None and verdict.kind in DROPPED and place in command.originals:
                self.letters.append(_because(command.originals[place], verdict))
        return unchecked

    def _take_late(self, row: AwakeableRow, on_late: str, completion: Completion, place: int) -> AwakeableRow:
        """Begin the handler for an answer that came late, or make a dead letter of it; the row afterwards."""
        if on_late == LATE_LETTER:
            if place in self.command.originals:
                reason = f"the awakeable is {row.state}"
                self.letters.append(replace(self.command.originals[place], code=LATE, reason=reason))
            return row
        now_ms, (service, handler, version) = self.now_ms, parsed_target(on_late)
        given = LateAnswer(
            value=Raw(completion.body.content) if isinstance(completion.body, Resolution) else Raw(NULL),
            awakeable_id=row.id,
            invocation_id=row.invocation_id,
            state=row.state,
            worker=completion.worker,
            at=rfc3339(now_ms),
        )
        invocation = Invocation(
            derived_id("inv", now_ms, row.id, "late"),
            service,
            handler,
            now_ms,
            now_ms,
            due_ms=invocations.first_due_ms(now_ms, 0),
            versions_json=versions_bytes(first_versions(version)),
        )
        journal = Input(
            service=service,
            handler=handler,
            seed=hashlib.blake2b(invocation.id.encode(), digest_size=SEED_BYTES).hexdigest(),
            at_ms=now_ms,
            value=Raw(msgspec.json.encode(given)),
            headers={} if completion.trace is None else {"traceparent": completion.trace},
            version=version,
        )
        self.late.append((invocation, encode_chunk([journal])))
        return awakeables.with_late_invocation(row, invocation.id)

    def _settle_waits(self, promise: AwakeableRow, outcome: Outcome) -> None:
        """Settle the waits for a promise."""
        keys = self.changes.waits_for(promise.id)
        self.rows.awakeables.require(keys)
        for key in keys:
            wait = self.rows.awakeables[key]
            if wait is not None and wait.state == "pending":
                ended = awakeables.ended(wait, outcome, now_ms=self.now_ms)
                self.rows_after[key] = ended
                self.settled.append((ended, outcome))

    def dead_letters(self) -> tuple[list[DeadLetter], list[DeadLetter], list[DeadLetter]]:
        """The dead letters to add with a copy, those to add without, and those to count only."""
        command = self.command
        filed, left = self._file() if self.reports else ([], [])
        letters = sorted([*self.letters, *left], key=lambda letter: letter.offset)
        if not letters:
            return [], filed, []
        room = command.folding and remaining(command.folding, filed, used_up=bool(left))
        kept, folded, self.counted = keep(letters, self.rows, room, self.now_ms)
        return kept, filed, folded

    def _file(self) -> tuple[list[DeadLetter], list[DeadLetter]]:
        """Record each task that a worker could not use, once, in its awakeable's row.

        Returns:
            The dead letters to add, and the reports that exceed the limits, as records to be counted.
        """
        command, folding = self.command, self.command.folding
        new = {command.dead_tasks[place].source: place for place in reversed(self.reports)}
        self.rows.sources.require(new)
        places = [place for source, place in reversed(new.items()) if self.rows.sources[source] is None]
        letters = [command.dead_tasks[place] for place in places]
        kept, left = (letters, []) if folding is None else split(letters, folding)
        for place in places:
            completion, letter = command.completions[place], command.dead_tasks[place]
            key = completion.awakeable_id
            row = self.rows_after.get(key) or self.rows.awakeables[key]
            assert row is not None, completion
            assert isinstance(completion.body, DeadTask), completion
            into = folding.into if folding is not None and letter in left else letter.id
            self.rows_after[key] = awakeables.note_dead_task(
                row,
                completion.body,
                dead_letter_id=into,
                worker=completion.worker,
                now_ms=self.now_ms,
            )
        return kept, [command.originals[place] for place in places[len(kept) :]]


def keep(
    letters: Iterable[DeadLetter], rows: Rows, room: Folding | None, now_ms: int
) -> tuple[list[DeadLetter], list[DeadLetter], tuple[DeadLetter, DeadLetter] | None]:
    """Decide which dead letters are added, and which are only counted.

    Returns:
        Those to add, one of which may count others; those that are counted; and the row that counts them,
        before and after, if there is one already.
    """
    kept, folded = room_for(new_letters(letters, rows), room)
    if not folded or room is None:
        return kept, folded, None
    known = rows.dead_letters[room.into]
    if known is None:
        return [*kept, fold(folded, room, now_ms=now_ms)], folded, None
    return kept, folded, (known, counted_up(known, folded))


def new_letters(letters: Iterable[DeadLetter], rows: Rows) -> list[DeadLetter]:
    """The dead letters whose record is not one yet, each record once."""
    by_source = {letter.source: letter for letter in reversed(list(letters))}
    rows.sources.require(by_source)
    return [letter for source, letter in reversed(by_source.items()) if rows.sources[source] is None]


def room_for(letters: list[DeadLetter], folding: Folding | None) -> tuple[list[DeadLetter], list[DeadLetter]]:
    """Split dead letters into those to keep and those to count only."""
    return (letters, []) if folding is None else split(letters, folding)


def add_dead_letters(letters: Sequence[DeadLetter], relay_to: str, now_ms: int, changes: Changes) -> None:
    """Add dead letters, and queue their copies for the dead-letter topic (K2)."""
    for letter in letters:
        changes.put_dead_letter(None, letter)
        copy = relay_copy(letter, to=relay_to, now_ms=now_ms)
        if changes.rows.effects.get(copy.event_id) is None:
            changes.put_effect(None, effect_row(copy, UNCLAIMED, 0))


def by_code(letters: Sequence[DeadLetter]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for letter in letters:
        counts[letter.code] += letter.count
    return counts


def _because(original: DeadLetter, verdict: Verdict) -> DeadLetter:
    return replace(original, code=verdict.kind, reason=verdict.reason or original.reason)


def _publish_verdicts(batch: _Batch, changes: Changes) -> int:
    """Queue the verdicts for their topic, in the commit that decides them; return how many are left out.

    A verdict that settles an awakeable is always published; the number of others is limited, since
    a producer can cause any number of them.
    """
    command = batch.command
    room = len(batch.verdicts) if command.folding is None else command.folding.max_verdicts
    left_out = 0
    for place, (event_id, verdict) in enumerate(zip(command.verdict_ids, batch.verdicts, strict=True)):
        if verdict is None or place in batch.again:
            continue
        if verdict.kind != "accepted":
            room -= 1
            if room < 0:
                left_out += 1
                continue
        effect = Effect(
            event_id=event_id,
            stream=verdict.awakeable_id,
            topic=command.verdicts_to,
            key=verdict.awakeable_id.encode(),
            value=None,
            created_ms=batch.now_ms,
            kind="verdict",
            verdict=abridged(verdict),
        )
        if changes.rows.effects.get(event_id) is None:
            changes.put_effect(None, effect_row(effect, UNCLAIMED, batch.counts[place]))
    return left_out

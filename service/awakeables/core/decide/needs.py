"""The rows that a group of commands needs, so that a store can load them with one statement per table.

This only makes commits fast: a row that is missing here is loaded when a decision raises `NotLoaded`.
A test checks that none is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeAlias

from awakeables.core.awakeables import PROMISE
from awakeables.core.commands import (
    Advance,
    Begin,
    BeginBatch,
    BeginQueued,
    Cancel,
    Command,
    EditState,
    Fire,
    FirstStep,
    Kill,
    MarkRefused,
    PauseHandlers,
    PauseInvocation,
    PauseKey,
    PausePartitions,
    PauseSchedule,
    PlacePartitions,
    PlaceSchedules,
    Purge,
    Release,
    ReplayDry,
    Republish,
    Resend,
    Restart,
    Resume,
    ResumeKey,
    Settle,
    Skip,
    TakePartitions,
    TakeTickets,
    Tick,
    Trigger,
)
from awakeables.core.deadletters import DeadLetter, Folding
from awakeables.core.decide.calling import ALIAS, CONFLICT
from awakeables.core.decide.queueing import MOST_STEPS, object_key_of
from awakeables.core.effects import Effect
from awakeables.core.ids import is_invocation, is_promise
from awakeables.core.invocations import End
from awakeables.core.objects import DELAYED, RUN, ObjectKey
from awakeables.core.records import text_bytes
from awakeables.core.rows import Rows, TableName

Keys: TypeAlias = dict[TableName, set[Hashable]]
"""Keys of rows by table; a `defaultdict`."""


def needs(commands: Iterable[Command], *, new: bool = False) -> Keys:
    """The keys of the rows that these commands name.

    Args:
        commands: The commands to decide.
        new: Include rows that the commands insert, which exist only if a command is sent again.
    """
    keys: Keys = defaultdict(set)
    for command in commands:
        _add_named(command, keys)
        if new:
            _add_new(command, keys)
    return keys


def needs_of_loaded(  # noqa: C901 - one case per command
    commands: Iterable[Command], rows: Rows, *, waiting: bool = True
) -> Keys:
    """The keys of rows that loaded rows refer to, such as the invocation of an awakeable.

    Call it again after loading these, until nothing is missing.

    Args:
        commands: The commands to decide.
        rows: The rows that are loaded.
        waiting: Include the invocations that may be woken; not needed where wake-ups are counted blindly.
    """
    keys: Keys = defaultdict(set)
    for command in commands:
        match command:
            case Advance():
                _add_called_off(command, rows, keys, waiting=waiting)
                row = rows.invocations.get(command.invocation_id)
                _add_of_step(command, rows, keys, again=row is not None and command.number <= row.commits)
                _add_stopped(command.cancels, rows, keys, waiting=waiting)
                if row is not None and any(write.name is None for write in command.writes):
                    keys["states"].add(object_key_of(row))
                if type(command.next) is End:
                    _add_ended(command.invocation_id, rows, keys, waiting=waiting)
                    _add_stopped(command.next.abandoned, rows, keys, waiting=waiting)
            case Begin() if command.first is not None:
                _add_called_off(command.first, rows, keys, waiting=waiting)
                _add_of_step(command.first, rows, keys, again=rows.invocations.get(command.id) is not None)
            case Cancel():
                _add_ended(command.invocation_id, rows, keys, waiting=waiting)
            case Kill():
                _add_killed(command.invocation_id, rows, keys, waiting=waiting)
            case Restart():
                row = rows.invocations.get(command.invocation_id)
                if row is not None and row.ticket is not None:
                    keys["objects"].add(object_key_of(row))
                _add_killed(command.invocation_id, rows, keys, waiting=waiting)
            case PauseKey():
                queue = rows.objects.get((command.service, text_bytes(command.key)))
                if queue is not None and queue.head is not None and queue.paused_ms is None:
                    keys["invocations"].add(queue.head)
            case ResumeKey():
                _add_following((command.service, text_bytes(command.key)), DELAYED, rows, keys)
            case TakeTickets():
                found = map(rows.invocations.get, command.ids)
                keys["objects"].update(object_key_of(row) for row in found if row is not None)
            case Fire() | BeginQueued() | Trigger():
                _add_last(command, rows, keys)
            case Settle():
                for each in command.completions:
                    if each.of_promise:
                        _add_waits_for(each.awakeable_id, rows, keys, waiting=waiting)
                if waiting:
                    _add_waiting((each.awakeable_id for each in command.completions), rows, keys)
            case Purge():
                purged = (rows.invocations.get(ended.id) for ended in command.ended)
                keys["states"].update(object_key_of(row) for row in purged if row and row.ticket == RUN)
            case MarkRefused() | Resend() | Republish():
                _add_of_sending(command, rows, keys, waiting=waiting)
            case _:
                pass
    return keys


def _add_last(command: Fire | BeginQueued | Trigger, rows: Rows, keys: Keys) -> None:
    """Add the last invocation of a schedule; and those to begin, if the command is sent again."""
    row = rows.schedules.get(command.schedule)
    if row is not None and row.last_invocation is not None:
        keys["invocations"].add(row.last_invocation)
    if isinstance(command, Trigger):
        keys["invocations"].add(command.tick.begin.id)
    if row is not None and isinstance(command, Fire) and row.next_ms == command.following_ms:
        keys["invocations"].update(tick.begin.id for tick in command.ticks)


def _ticks_of(command: Fire | BeginQueued | Trigger) -> Sequence[Tick]:
    return command.ticks if isinstance(command, Fire) else (command.tick,)


def _add_of_sending(
    command: MarkRefused | Resend | Republish, rows: Rows, keys: Keys, *, waiting: bool
) -> None:
    match command:
        case MarkRefused():
            effect = rows.effects.get(command.event_id)
            task = None if effect is None else effect.effect.task
            if task is not None:
                keys["awakeables"].add(task.awakeable_id)
                if waiting:
                    _add_waiting([task.awakeable_id], rows, keys)
        case Resend():
            letter = rows.dead_letters.get(command.dead_letter_id)
            if letter is not None and letter.awakeable_id is not None:
                keys["awakeables"].add(letter.awakeable_id)
        case Republish():
            effect = rows.effects.get(command.event_id)
            if effect is not None:
                keys["invocations" if effect.kind == "event" else "dead_letters"].add(effect.stream)


def _add_of_step(step: Advance | FirstStep, rows: Rows, keys: Keys, *, again: bool) -> None:
    """Add what the idempotency keys, and the IDs, of the step's calls stand for.

    If the step is committed again, add the waits that it made, and the calls that it did not.
    """
    if again:
        keys["keys"].update((CONFLICT, call.id) for call in step.calls if call.idempotency is not None)
        keys["awakeables"].update(each.id for each in step.awakeables if each.source is not None)
    called = {call.id for call in step.calls}
    attached = {each.source for each in step.awakeables if each.source is not None and not each.owned}
    for call in step.calls:
        if call.queue is not None and (call.queue.callers or call.id in attached):
            _add_circle(_add_head((call.service, text_bytes(call.key or "")), rows, keys), rows, keys)
        if call.idempotency is not None:
            known = rows.keys.get((call.idempotency.scope, call.idempotency.key))
            if known is not None:
                keys["invocations"].add(known[1])
                if call.id in attached:
                    _add_circle(known[1], rows, keys)
    for each in step.awakeables:
        if is_invocation(each.source) and each.source not in called:
            target = _add_alias(each.source, rows, keys)
            if not each.owned:
                _add_circle(target, rows, keys)


def _add_circle(following: str | None, rows: Rows, keys: Keys) -> None:
    """Add what an invocation waits for, one after the other, as far as it is known."""
    for _ in range(MOST_STEPS):
        row = None if following is None else rows.invocations.get(following)
        if row is None:
            return
        if row.status == "queued" or row.ticket == DELAYED:
            following = _add_head(object_key_of(row), rows, keys)
            continue
        keys["pending"].add(row.id)
        waits = [key for key in rows.pending.get(row.id) or () if not is_promise(key)]
        if len(waits) != 1:
            return
        keys["awakeables"].update(waits)
        wait = rows.awakeables.get(waits[0])
        following = None if wait is None else wait.source
        if not is_invocation(following):
            return
        keys["invocations"].add(following)


def _add_head(object_key: ObjectKey, rows: Rows, keys: Keys) -> str | None:
    keys["objects"].add(object_key)
    queue = rows.objects.get(object_key)
    if queue is None or queue.head is None:
        return None
    keys["invocations"].add(queue.head)
    return queue.head


def _add_alias(invocation_id: str, rows: Rows, keys: Keys) -> str:
    """Add what an ID stands for that is no invocation's; return the invocation's ID as far as it is known."""
    if invocation_id not in rows.invocations or rows.invocations[invocation_id] is not None:
        return invocation_id
    keys["keys"].update([(ALIAS, invocation_id), (CONFLICT, invocation_id)])
    alias = rows.keys.get((ALIAS, invocation_id))
    if alias is None:
        return invocation_id
    keys["invocations"].add(alias[1])
    return alias[1]


def _add_called_off(step: Advance | FirstStep, rows: Rows, keys: Keys, *, waiting: bool) -> None:
    """Add the invocations that a handler cancels; one that was never claimed ends with that."""
    for key in step.called_off:
        if not key.startswith("prom"):
            target = _add_alias(key, rows, keys)
            row = rows.invocations.get(target)
            if row is not None and row.epoch == 0:
                _add_ended(target, rows, keys, waiting=waiting)


def _add_stopped(wait_ids: Iterable[str], rows: Rows, keys: Keys, *, waiting: bool) -> None:
    """Add the calls that are cancelled because their caller is, or has ended."""
    for key in wait_ids:
        wait = rows.awakeables.get(key)
        if wait is not None and wait.owned and wait.state == "pending":
            call = wait.source or ""
            keys["invocations"].add(call)
            row = rows.invocations.get(call)
            if row is not None and row.epoch == 0:
                _add_ended(call, rows, keys, waiting=waiting)


def _add_killed(invocation_id: str, rows: Rows, keys: Keys, *, waiting: bool) -> None:
    """Add what is pending of an invocation that is killed, and of its calls, and so on."""
    left = [invocation_id]
    while left:
        row = rows.invocations.get(left.pop())
        if row is None or row.status == "completed":
            continue
        keys["pending"].add(row.id)
        _add_ended(row.id, rows, keys, waiting=waiting)
        for key in rows.pending.get(row.id) or ():
            keys["awakeables"].add(key)
            wait = rows.awakeables.get(key)
            if wait is not None and wait.owned:
                keys["invocations"].add(wait.source or "")
                left.append(wait.source or "")


def _add_ended(invocation_id: str, rows: Rows, keys: Keys, *, waiting: bool) -> None:
    """Add the waits for an invocation that ends, and what comes next in the queue of its key, if any."""
    row = rows.invocations.get(invocation_id)
    if row is not None and row.ticket == RUN:
        keys["pending"].add(invocation_id)
        promises = rows.pending.get(invocation_id) or ()
        keys["awakeables"].update(promises)
        for promise in promises:
            if (found := rows.awakeables.get(promise)) is not None and found.source_utf8 == PROMISE:
                _add_waits_for(promise, rows, keys, waiting=waiting)
    elif row is not None and row.ticket:
        _add_following(object_key_of(row), row.ticket, rows, keys, of=invocation_id)
    if row is not None and row.awaited:
        _add_waits_for(invocation_id, rows, keys, waiting=waiting)


def _add_waits_for(source: str, rows: Rows, keys: Keys, *, waiting: bool) -> None:
    """Add the waits for the end of an invocation, or for a promise."""
    keys["waiting"].add(source)
    waits = rows.waiting.get(source) or ()
    keys["awakeables"].update(waits)
    if waiting:
        _add_waiting(waits, rows, keys)


def _add_following(
    object_key: ObjectKey, ticket: int, rows: Rows, keys: Keys, *, of: str | None = None
) -> None:
    """Add the queue of a key, and what comes after a ticket, if its head is the one that ends."""
    keys["objects"].add(object_key)
    queue = rows.objects.get(object_key)
    if queue is not None and queue.head == of:
        keys["queue"].add((object_key, ticket))
        following = rows.queue.get((object_key, ticket))
        if following is not None:
            keys["invocations"].add(following)


def _add_waiting(awakeable_ids: Iterable[str], rows: Rows, keys: Keys) -> None:
    """Add the invocations of pending awakeables: they may be woken."""
    for key in awakeable_ids:
        row = rows.awakeables.get(key)
        if row is not None and row.state == "pending":
            keys["invocations"].add(row.invocation_id)


def _add_named(command: Command, keys: Keys) -> None:  # noqa: C901, PLR0915 - one case per command
    match command:
        case Advance():
            keys["invocations"].add(command.invocation_id)
            keys["awakeables"].update(command.cancels)
            _add_step(command, keys)
            if command.dead_letter is not None:
                keys["sources"].add(command.dead_letter.source)
        case Begin():
            if command.idempotency is not None:
                keys["keys"].add((command.idempotency.scope, command.idempotency.key))
            if command.first is not None:
                _add_step(command.first, keys)
            if command.queue is not None and not command.delay_ms:
                keys["objects"].add((command.service, text_bytes(command.key or "")))
            if command.workflow is not None:
                keys["keys"].add((command.workflow.scope, command.key or ""))
        case Settle():
            _add_settle(command, keys)
        case BeginBatch():
            fence = command.fence
            keys["positions"].add((fence.subscription, fence.topic, fence.partition))
            _add_begins(command.begins, keys)
            _add_letters(command.dead_letters, command.folding, keys)
        case Resume() | Cancel() | Kill() | ReplayDry() | PauseInvocation():
            keys["invocations"].add(command.invocation_id)
        case Restart():
            keys["invocations"].update((command.invocation_id, command.id))
        case PauseKey() | ResumeKey() | EditState():
            object_key = (command.service, text_bytes(command.key))
            keys["objects"].add(object_key)
            if isinstance(command, EditState) and any(write.name is None for write in command.writes):
                keys["states"].add(object_key)
        case TakeTickets():
            keys["invocations"].update(command.ids)
        case Release():
            keys["invocations"].update(command.ids)
        case Purge():
            keys["invocations"].update(ended.id for ended in command.ended)
        case MarkRefused() | Republish():
            keys["effects"].add(command.event_id)
        case Resend():
            keys["dead_letters"].add(command.dead_letter_id)
            keys["effects"].add(command.event_id)
        case Skip():
            keys["dead_letters"].add(command.dead_letter.id)
            keys["sources"].add(command.dead_letter.source)
            keys["positions"].add((command.subscription, command.topic, command.partition))
        case TakePartitions() | PausePartitions():
            places = ((command.subscription, command.topic, number) for number in command.partitions)
            keys["positions"].update(places)
        case Fire() | BeginQueued() | Trigger():
            keys["schedules"].add(command.schedule)
            _add_begins([tick.begin for tick in _ticks_of(command)], keys)
        case PauseHandlers():
            keys["pauses"].add(command.target)
        case PauseSchedule():
            keys["schedules"].add(command.schedule)
        case PlaceSchedules():
            keys["schedules"].update((*(each.name for each in command.schedules), *command.removed))
        case PlacePartitions():
            places = ((command.subscription, command.topic, number) for number, _ in command.offsets)
            keys["positions"].update(places)
        case _:
            pass


def _add_begins(begins: Sequence[Begin], keys: Keys) -> None:
    """Add the queues of their keys, and the idempotency keys of runs."""
    queued = (begin for begin in begins if begin.queue is not None)
    keys["objects"].update((begin.service, text_bytes(begin.key or "")) for begin in queued)
    runs = (begin.idempotency for begin in begins if begin.idempotency is not None)
    keys["keys"].update((run.scope, run.key) for run in runs)


def _add_step(step: Advance | FirstStep, keys: Keys) -> None:
    """Add the rows that an owner's commit refers to and does not create."""
    new = {each.id for each in step.awakeables}
    called = {call.id for call in step.calls}
    for key in step.called_off:
        if not key.startswith("prom"):
            keys["invocations"] |= {key} - called
        elif key not in new:
            keys["awakeables"].add(key)
    for call in step.calls:
        if call.idempotency is not None:
            keys["keys"].add((call.idempotency.scope, call.idempotency.key))
        if call.workflow is not None:
            keys["keys"].add((call.workflow.scope, call.key or ""))
        if call.queue is not None and not call.delay_ms:
            keys["objects"].add((call.service, text_bytes(call.key or "")))
    for each in step.awakeables:
        if each.source is not None and each.source not in called:
            keys["invocations" if is_invocation(each.source) else "awakeables"].add(each.source)
    about = set(step.next.abandoned) if isinstance(step.next, End) else set()
    about.update(effect.task.awakeable_id for effect in step.effects if effect.task is not None)
    keys["awakeables"] |= about - new


def _add_settle(command: Settle, keys: Keys) -> None:
    if command.fence is not None:
        fence = command.fence
        keys["positions"].add((fence.subscription, fence.topic, fence.partition))
    keys["awakeables"].update(each.awakeable_id for each in command.completions)
    letters = (*command.dead_letters, *command.originals.values(), *command.dead_tasks.values())
    if letters:
        _add_letters(letters, command.folding, keys)


def _add_letters(letters: Sequence[DeadLetter], folding: Folding | None, keys: Keys) -> None:
    keys["sources"].update(letter.source for letter in letters)
    if letters and folding is not None:
        keys["dead_letters"].add(folding.into)


def _add_new(command: Command, keys: Keys) -> None:
    match command:
        case Begin():
            keys["invocations"].add(command.id)
            if command.first is not None:
                _add_effects(command.first.effects, keys)
        case Advance():
            _add_effects(command.effects, keys)
            if command.dead_letter is not None:
                keys["effects"].add(command.dead_letter.id)
        case BeginBatch():
            keys["invocations"].update(begin.id for begin in command.begins)
            keys["effects"].update(letter.id for letter in command.dead_letters)
            if command.folding is not None:
                keys["effects"].add(command.folding.into)
        case Settle():
            keys["effects"].update(command.verdict_ids)
            letters = (*command.dead_letters, *command.originals.values())
            keys["effects"].update(letter.id for letter in letters)
            if command.folding is not None:
                keys["effects"].add(command.folding.into)
        case Skip():
            keys["effects"].add(command.dead_letter.id)
        case Fire() | BeginQueued() | Trigger():
            keys["invocations"].update(tick.begin.id for tick in _ticks_of(command))
        case _:
            pass


def _add_effects(effects: Iterable[Effect], keys: Keys) -> None:
    keys["effects"].update(effect.event_id for effect in effects)


def missing(keys: Mapping[TableName, set[Hashable]], rows: Rows) -> Keys:
    """The keys whose rows are not loaded."""
    found: Keys = defaultdict(set)
    for table, wanted in keys.items():
        # Not `wanted - loaded.keys()`, which visits each row that is loaded.
        loaded = getattr(rows, table)
        left = {key for key in wanted if key not in loaded}
        if left:
            found[table] = left
    return found

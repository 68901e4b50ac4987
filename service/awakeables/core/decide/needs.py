"""The rows that a group of commands needs, so that a store can load them with one statement per table.

This only makes commits fast: a row that is missing here is loaded when a decision raises `NotLoaded`.
A test checks that none is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeAlias

from awakeables.core.commands import (
    Advance,
    Begin,
    Cancel,
    Command,
    FirstStep,
    Kill,
    MarkRefused,
    Purge,
    Release,
    ReplayDry,
    Republish,
    Resend,
    Resume,
    Settle,
    Skip,
    TakePartitions,
)
from awakeables.core.effects import Effect
from awakeables.core.invocations import End
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


def needs_of_loaded(commands: Iterable[Command], rows: Rows, *, waiting: bool = True) -> Keys:
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
            case Settle() if waiting:
                _add_waiting((each.awakeable_id for each in command.completions), rows, keys)
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
            case _:
                pass
    return keys


def _add_waiting(awakeable_ids: Iterable[str], rows: Rows, keys: Keys) -> None:
    """Add the invocations of pending awakeables: they may be woken."""
    for key in awakeable_ids:
        row = rows.awakeables.get(key)
        if row is not None and row.state == "pending":
            keys["invocations"].add(row.invocation_id)


def _add_named(command: Command, keys: Keys) -> None:
    match command:
        case Advance():
            keys["invocations"].add(command.invocation_id)
            keys["awakeables"].update(command.cancels)
            _add_step(command, keys)
        case Begin():
            if command.idempotency is not None:
                keys["keys"].add((command.idempotency.scope, command.idempotency.key))
            if command.first is not None:
                _add_step(command.first, keys)
        case Settle():
            _add_settle(command, keys)
        case Resume() | Cancel() | Kill() | ReplayDry():
            keys["invocations"].add(command.invocation_id)
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
            keys["positions"].add((command.topic, command.partition))
        case TakePartitions():
            keys["positions"].update((command.topic, partition) for partition in command.partitions)
        case _:
            pass


def _add_step(step: Advance | FirstStep, keys: Keys) -> None:
    """Add the awakeables that an owner's commit refers to and does not create."""
    new = {each.id for each in step.awakeables}
    about = set(step.next.abandoned) if isinstance(step.next, End) else set()
    about.update(effect.task.awakeable_id for effect in step.effects if effect.task is not None)
    keys["awakeables"] |= about - new


def _add_settle(command: Settle, keys: Keys) -> None:
    if command.fence is not None:
        keys["positions"].add((command.fence.topic, command.fence.partition))
    keys["awakeables"].update(each.awakeable_id for each in command.completions)
    letters = (*command.dead_letters, *command.originals.values(), *command.dead_tasks.values())
    keys["sources"].update(letter.source for letter in letters)
    if letters and command.folding is not None:
        keys["dead_letters"].add(command.folding.into)


def _add_new(command: Command, keys: Keys) -> None:
    match command:
        case Begin():
            keys["invocations"].add(command.id)
            if command.first is not None:
                _add_effects(command.first.effects, keys)
        case Advance():
            _add_effects(command.effects, keys)
        case Settle():
            keys["effects"].update(command.verdict_ids)
            letters = (*command.dead_letters, *command.originals.values())
            keys["effects"].update(letter.id for letter in letters)
            if command.folding is not None:
                keys["effects"].add(command.folding.into)
        case Skip():
            keys["effects"].add(command.dead_letter.id)
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

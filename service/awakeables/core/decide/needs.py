"""Which rows a group of orders is decided on, so that a store loads them with one statement per table.

A guess that makes commits fast and changes no meaning: what is missing here is loaded when a decision
asks for it. A test holds that nothing is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeAlias

from awakeables.core.effects import Effect
from awakeables.core.invocations import End
from awakeables.core.orders import (
    Advance,
    Begin,
    Cancel,
    FirstStep,
    Kill,
    MarkRefused,
    Member,
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
from awakeables.core.rows import Rows, TableName

Keys: TypeAlias = dict[TableName, set[Hashable]]
"""Keys of rows by table; a `defaultdict`."""


def needs(orders: Iterable[Member], *, new: bool = False) -> Keys:
    """The keys of the rows that these orders name.

    Args:
        orders: What is to be decided.
        new: With the keys of rows that the orders make, which are absent unless an order is sent again.
    """
    keys: Keys = defaultdict(set)
    for order in orders:
        _add(order, keys)
        if new:
            _add_new(order, keys)
    return keys


def needs_of_loaded(orders: Iterable[Member], rows: Rows) -> Keys:
    """The keys of the rows that are found by the rows which these orders name, once those are loaded.

    To be asked again after these are loaded, until all are there.
    """
    keys: Keys = defaultdict(set)
    for order in orders:
        match order:
            case Settle():
                _add_waiting((each.awakeable_id for each in order.completions), rows, keys)
            case MarkRefused():
                effect = rows.effects.get(order.event_id)
                task = None if effect is None else effect.effect.task
                if task is not None:
                    keys["awakeables"].add(task.awakeable_id)
                    _add_waiting([task.awakeable_id], rows, keys)
            case Resend():
                letter = rows.letters.get(order.dead_letter_id)
                if letter is not None and letter.awakeable_id is not None:
                    keys["awakeables"].add(letter.awakeable_id)
            case Republish():
                effect = rows.effects.get(order.event_id)
                if effect is not None:
                    keys["invocations" if effect.kind == "event" else "letters"].add(effect.stream)
            case _:
                pass
    return keys


def _add_waiting(awakeable_ids: Iterable[str], rows: Rows, keys: Keys) -> None:
    """Whose awakeable is pending may be woken."""
    for key in awakeable_ids:
        row = rows.awakeables.get(key)
        if row is not None and row.state == "pending":
            keys["invocations"].add(row.invocation_id)


def _add(order: Member, keys: Keys) -> None:
    match order:
        case Advance():
            keys["invocations"].add(order.invocation_id)
            keys["awakeables"].update(order.calls_off)
            _add_step(order, keys)
        case Begin():
            if order.idempotency is not None:
                keys["keys"].add((order.idempotency.scope, order.idempotency.key))
            if order.first is not None:
                _add_step(order.first, keys)
        case Settle():
            _add_settle(order, keys)
        case Resume() | Cancel() | Kill() | ReplayDry():
            keys["invocations"].add(order.invocation_id)
        case Release():
            keys["invocations"].update(order.ids or ())
        case Purge():
            keys["invocations"].update(ended.id for ended in order.ended)
        case MarkRefused() | Republish():
            keys["effects"].add(order.event_id)
        case Resend():
            keys["letters"].add(order.dead_letter_id)
            keys["effects"].add(order.event_id)
        case Skip():
            keys["letters"].add(order.dead_letter.id)
            keys["sources"].add(order.dead_letter.source)
            keys["positions"].add((order.topic, order.partition))
        case TakePartitions():
            keys["positions"].update((order.topic, partition) for partition in order.partitions)
        case _:
            pass


def _add_step(step: Advance | FirstStep, keys: Keys) -> None:
    """The awakeables that an owner's commit is about and does not bring along."""
    new = {each.id for each in step.awakeables}
    about = set(step.next.abandoned) if isinstance(step.next, End) else set()
    about.update(effect.task.awakeable_id for effect in step.effects if effect.task is not None)
    keys["awakeables"] |= about - new


def _add_settle(order: Settle, keys: Keys) -> None:
    if order.fence is not None:
        keys["positions"].add((order.fence.topic, order.fence.partition))
    keys["awakeables"].update(each.awakeable_id for each in order.completions)
    letters = (*order.dead_letters, *order.originals.values(), *order.dead_tasks.values())
    keys["sources"].update(letter.source for letter in letters)
    if letters and order.folding is not None:
        keys["letters"].add(order.folding.into)


def _add_new(order: Member, keys: Keys) -> None:
    match order:
        case Begin():
            keys["invocations"].add(order.id)
            if order.first is not None:
                _add_effects(order.first.effects, keys)
        case Advance():
            _add_effects(order.effects, keys)
        case Settle():
            keys["effects"].update(order.verdict_ids)
            letters = (*order.dead_letters, *order.originals.values())
            keys["effects"].update(letter.id for letter in letters)
            if order.folding is not None:
                keys["effects"].add(order.folding.into)
        case Skip():
            keys["effects"].add(order.dead_letter.id)
        case _:
            pass


def _add_effects(effects: Iterable[Effect], keys: Keys) -> None:
    keys["effects"].update(effect.event_id for effect in effects)


def missing(keys: Mapping[TableName, set[Hashable]], rows: Rows) -> Keys:
    """Those of these keys whose rows are not loaded."""
    found: Keys = defaultdict(set)
    for table, wanted in keys.items():
        left = wanted - getattr(rows, table).keys()
        if left:
            found[table] = left
    return found

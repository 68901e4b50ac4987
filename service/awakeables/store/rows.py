"""Converts between columns and what is not a struct of them: dead letters, and what awakeables expect."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from awakeables.core.acts import acts_bytes, acts_from
from awakeables.core.awakeables import keeps_late
from awakeables.core.deadletters import DeadLetter
from awakeables.core.records import text_bytes, text_from
from awakeables.core.rows import headers_bytes, headers_from
from awakeables.core.sealed import Unopened, text_or_problem
from awakeables.core.versions import OpenInvocations, versions_from
from awakeables.ports import QUEUED_OLDEST, Expectation

Columns: TypeAlias = tuple[Any, ...]


def expectation_from(columns: Iterable[Any]) -> Expectation:
    """What an awakeable accepts, from the columns of `expectations` after its ID."""
    invocation_id, codec, type_name, schema_hash, schema, watch = columns
    return Expectation(
        invocation_id=invocation_id,
        codec=codec,
        type_name=type_name,
        schema_hash=schema_hash,
        schema=schema,
        keeps_late=watch is not None and keeps_late(watch),
    )


def oldest_queued(found: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Since when the first in line for a key of each object has been waiting, as in `Inspection.counts`."""
    return {f"{QUEUED_OLDEST}{service}": since_ms for service, since_ms in found}


def open_invocations_from(columns: Iterable[Any]) -> OpenInvocations:
    """A group of open invocations, from the columns of `open_by_versions`."""
    service, handler, versions, count, oldest_ms = columns
    return OpenInvocations(
        service=service,
        handler=handler,
        versions=versions_from(versions),
        count=count,
        oldest_ms=oldest_ms,
    )


def dead_letter_from(row: Iterable[Any]) -> DeadLetter:
    (
        id_,
        source,
        topic,
        partition,
        offset,
        timestamp_ms,
        code,
        reason,
        at_ms,
        awakeable_id,
        headers,
        key,
        value,
        resent,
        acted_by,
        last_offset,
        count,
    ) = row
    return DeadLetter(
        id=id_,
        source=source,
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp_ms=timestamp_ms,
        code=code,
        reason=text_or_problem(reason),
        at_ms=at_ms,
        key=key,
        value=next((part for part in (value, key, headers) if isinstance(part, Unopened)), value),
        headers=() if isinstance(headers, Unopened) else headers_from(headers),
        awakeable_id=None if awakeable_id is None else text_from(awakeable_id),
        resent=resent,
        last_offset=last_offset,
        count=count,
        acts=acts_from(acted_by),
    )


def dead_letter_row(letter: DeadLetter) -> Columns:
    """All columns, for `insert_dead_letter`."""
    return (
        letter.id,
        letter.source,
        letter.topic,
        letter.partition,
        letter.offset,
        letter.timestamp_ms,
        letter.code,
        text_bytes(letter.reason),
        letter.at_ms,
        None if letter.awakeable_id is None else text_bytes(letter.awakeable_id),
        headers_bytes(letter.headers),
        letter.key,
        letter.value,
        letter.resent,
        acts_bytes(letter.acts),
        letter.last_offset,
        letter.count,
    )


def dead_letter_notes(letter: DeadLetter) -> Columns:
    """The columns that `update_dead_letter` sets."""
    return (letter.resent, acts_bytes(letter.acts), letter.last_offset, letter.count)

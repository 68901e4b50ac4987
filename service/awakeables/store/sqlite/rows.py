"""Records to rows and back: the only place that knows the order of columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import msgspec

from awakeables.core.acts import Acts
from awakeables.core.awakeables import Awakeable, Beat, Book
from awakeables.core.invocations import Failure, Invocation
from awakeables.core.orders import DeadLetter, Effect, Header, Position, QueuedEffect, TaskFacts
from awakeables.core.outcomes import Outcome, decode_outcome, encode_outcome

Row: TypeAlias = tuple[Any, ...]
T = TypeVar("T")
U = TypeVar("U")

_encode = msgspec.json.Encoder().encode
_decode_book = msgspec.json.Decoder(Book).decode
_decode_beat = msgspec.json.Decoder(Beat).decode
_decode_failure = msgspec.json.Decoder(Failure).decode
_decode_task = msgspec.json.Decoder(TaskFacts).decode
_decode_acts = msgspec.json.Decoder(Acts).decode
_decode_headers = msgspec.json.Decoder(tuple[Header, ...]).decode

_NO_BOOK = Book()


def invocation_from(row: Row) -> Invocation:
    (
        id_,
        service,
        handler,
        created_ms,
        updated_ms,
        key,
        status,
        owner,
        epoch,
        version,
        wake,
        starts,
        attempts,
        due_ms,
        commit_id,
        build,
        failure,
        result,
        cancelled_ms,
        _ended_ms,
        acted_by,
    ) = row
    return Invocation(
        id=id_,
        service=service,
        handler=handler,
        created_ms=created_ms,
        updated_ms=updated_ms,
        key=_maybe(text_from, key),
        status=status,
        owner=owner,
        epoch=epoch,
        version=version,
        wake=wake,
        starts=starts,
        attempts=attempts,
        due_ms=due_ms,
        commit_id=commit_id,
        build=build,
        failure=_maybe(_decode_failure, failure),
        result=_maybe(decode_outcome, result),
        cancelled_ms=cancelled_ms,
        acts=acts_from(acted_by),
    )


def invocation_row(record: Invocation) -> Row:
    """All columns, for `insert_invocation`."""
    return (
        record.id,
        record.service,
        record.handler,
        record.created_ms,
        record.updated_ms,
        _maybe(text_bytes, record.key),
        record.status,
        record.owner,
        record.epoch,
        record.version,
        record.wake,
        record.starts,
        record.attempts,
        record.due_ms,
        record.commit_id,
        record.build,
        _maybe(_encode, record.failure),
        _outcome_bytes(record.result),
        record.cancelled_ms,
        None if record.result is None else record.updated_ms,
        acts_bytes(record.acts),
    )


def invocation_progress(record: Invocation) -> Row:
    """The columns of `update_invocation`: none of them is indexed."""
    return (
        record.updated_ms,
        record.epoch,
        record.version,
        record.wake,
        record.starts,
        record.attempts,
        record.commit_id,
        record.build,
        _maybe(_encode, record.failure),
    )


def invocation_place(record: Invocation) -> Row:
    """The columns that `move_invocation` sets as well: in what state, whose, due when, by whose acts."""
    return (record.status, record.owner, record.due_ms, record.cancelled_ms, acts_bytes(record.acts))


def invocation_result(record: Invocation) -> Row:
    """The columns that `end_invocation` sets as well."""
    return (_outcome_bytes(record.result), record.updated_ms)


def awakeable_from(row: Row) -> Awakeable:
    (
        id_,
        invocation_id,
        created_ms,
        codec,
        schema_hash,
        deadline_ms,
        state,
        settled_ms,
        settled_by,
        outcome,
        book,
        beat,
        type_name,
        topic,
        _title,
        _about,
    ) = row
    return Awakeable(
        id=id_,
        invocation_id=invocation_id,
        created_ms=created_ms,
        codec=codec,
        type_name=type_name,
        schema_hash=schema_hash,
        topic=topic,
        deadline_ms=deadline_ms,
        state=state,
        settled_ms=settled_ms,
        settled_by=settled_by,
        outcome=_maybe(decode_outcome, outcome),
        book=_NO_BOOK if book is None else _decode_book(book),
        beat=_maybe(_decode_beat, beat),
    )


def awakeable_row(record: Awakeable) -> Row:
    """All columns, for `insert_awakeable`."""
    return (
        record.id,
        record.invocation_id,
        record.created_ms,
        record.codec,
        record.schema_hash,
        record.deadline_ms,
        record.state,
        record.settled_ms,
        record.settled_by,
        _outcome_bytes(record.outcome),
        record.type_name,
        record.topic,
        *awakeable_notes(record),
    )


def awakeable_notes(record: Awakeable) -> Row:
    """The columns of `note_awakeable`: none of them is indexed."""
    return (None if record.book == _NO_BOOK else _encode(record.book), _maybe(_encode, record.beat))


def awakeable_settlement(record: Awakeable) -> Row:
    """The columns that `settle_awakeable` sets as well."""
    return (record.state, record.settled_ms, record.settled_by, _outcome_bytes(record.outcome))


def effect_from(row: Row) -> Effect:
    event_id, stream, _, _, created_ms, topic, _, task, headers, key, value, _ = row
    return Effect(
        event_id=event_id,
        stream=stream,
        topic=topic,
        key=key,
        value=value,
        headers=_headers_from(headers),
        task=_maybe(_decode_task, task),
        created_ms=created_ms,
    )


def queued_effect_from(row: Row) -> QueuedEffect:
    _, _, _, state, _, _, reason, *_, acted_by = row
    return QueuedEffect(
        effect=effect_from(row), state=state, reason=_maybe(text_from, reason), acts=acts_from(acted_by)
    )


def effect_row(effect: Effect, owner: str) -> Row:
    """The columns of `insert_effect`."""
    return (
        effect.event_id,
        effect.stream,
        owner,
        effect.created_ms,
        effect.topic,
        _maybe(_encode, effect.task),
        _headers_bytes(effect.headers),
        effect.key,
        effect.value,
    )


def dead_letter_from(row: Row) -> DeadLetter:
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
        reason=text_from(reason),
        at_ms=at_ms,
        key=key,
        value=value,
        headers=_headers_from(headers),
        awakeable_id=_maybe(text_from, awakeable_id),
        resent=resent,
        last_offset=last_offset,
        count=count,
        acts=acts_from(acted_by),
    )


def dead_letter_row(letter: DeadLetter) -> Row:
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
        _maybe(text_bytes, letter.awakeable_id),
        _headers_bytes(letter.headers),
        letter.key,
        letter.value,
        letter.resent,
        acts_bytes(letter.acts),
    )


def dead_letter_span(letter: DeadLetter) -> Row:
    """The columns of `insert_dead_letter` that came later: which records it stands for."""
    return (letter.last_offset, letter.count)


def acts_bytes(acts: Acts) -> bytes | None:
    return _encode(acts) if acts else None


def acts_from(content: bytes | None) -> Acts:
    return _decode_acts(content) if content else ()


def position_from(row: Row) -> Position:
    partition, next_, epoch, again_before = row
    return Position(partition=partition, next=next_, epoch=epoch, again_before=again_before)


def text_bytes(text: str) -> bytes:
    """Text from outside: half of a surrogate pair, which UTF-8 refuses, is kept, too."""
    return text.encode("utf-8", "surrogatepass")


def text_from(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


def _outcome_bytes(outcome: Outcome | None) -> bytes | None:
    return None if outcome is None else encode_outcome(outcome)


def _headers_bytes(headers: tuple[Header, ...]) -> bytes | None:
    return _encode(headers) if headers else None


def _headers_from(content: bytes | None) -> tuple[Header, ...]:
    return _decode_headers(content) if content else ()


def _maybe(function: Callable[[T], U], value: T | None) -> U | None:
    return None if value is None else function(value)

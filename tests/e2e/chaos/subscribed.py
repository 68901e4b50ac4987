"""The promises to subscriptions: each record begins one invocation, in order, or is one dead letter."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import ConsumerRecord

from awakeables.core.deadletters import ERROR_PREFIX, FAILED, INVALID, DeadLetter
from awakeables.core.invocations import Invocation
from awakeables.core.journal import Input, SourceRecord
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.engine.readtopic import letter_source
from e2e.chaos.app import ADD, SUBSCRIPTIONS
from e2e.chaos.evidence import Evidence, Violation
from e2e.chaos.records import ID_HEADER, Produced, number_of


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What one subscription is to make of one record.

    Attributes:
        code: The code of its dead letter; None: it gets none.
    """

    subscription: str
    record: ConsumerRecord
    id: str
    code: str | None

    @property
    def begins(self) -> bool:
        return self.code != INVALID

    @property
    def source(self) -> str:
        """What its dead letter is known by."""
        record = self.record
        return letter_source(
            self.subscription, record.topic, record.partition, record.offset, record.timestamp
        )

    def __str__(self) -> str:
        return f"record {self.id} at {self.record.partition}:{self.record.offset} for {self.subscription}"


def violations(evidence: Evidence) -> Iterator[Violation]:
    planned = {record.n: record for record in evidence.produced}
    expected = [
        _expected(subscription, record, planned)
        for record in evidence.records
        for subscription in SUBSCRIPTIONS
    ]
    yield from _every_acknowledged_record_is_in_the_topic(evidence)
    yield from _every_topic_was_read_to_its_end(evidence)
    yield from _every_record_began_one_invocation(evidence, expected)
    yield from _every_record_was_handled_once(evidence, expected)
    yield from _what_cannot_be_used_is_one_dead_letter(evidence, expected)
    yield from _dead_letters_were_copied(evidence)
    yield from _records_of_a_key_ran_in_order(evidence, expected)


def _expected(subscription: str, record: ConsumerRecord, planned: Mapping[int, Produced]) -> Expected:
    record_id = _id_of(record.headers) or ""
    code = None
    match planned[number_of(record_id)].fate:
        case "fails":
            code = FAILED
        case "does not fit":
            code = INVALID
        case "has no key":
            code = INVALID if subscription == ADD else None
        case "fits":
            code = None
    return Expected(subscription=subscription, record=record, id=record_id, code=code)


def _every_acknowledged_record_is_in_the_topic(evidence: Evidence) -> Iterator[Violation]:
    there = {(record.partition, record.offset): _id_of(record.headers) for record in evidence.records}
    for record in evidence.produced:
        found = None if record.at is None else there.get(record.at)
        if found != record.id:
            yield Violation(kind="lost", what=f"{record.id} is not in the topic at {record.at}: {found}")


def _every_topic_was_read_to_its_end(evidence: Evidence) -> Iterator[Violation]:
    for subscription in SUBSCRIPTIONS:
        positions = evidence.read.get(subscription, {})
        reached = {partition: positions.get(partition, 0) for partition in evidence.record_ends}
        if reached != evidence.record_ends:
            yield Violation(
                kind="lost", what=f"K1: {subscription} read to {reached} of {evidence.record_ends}"
            )


def _every_record_began_one_invocation(evidence: Evidence, expected: list[Expected]) -> Iterator[Violation]:
    """By its offset in the inputs, and by its own ID there."""
    begun: dict[tuple[str, int, int], list[tuple[Invocation, SourceRecord]]] = {}
    for row in evidence.invocations.values():
        source = _source_of(evidence, row)
        if (source.subscription if source else None) != row.subscription:
            yield Violation(kind="told wrongly", what=f"{row.id} is of {row.subscription}, begun by {source}")
        if source is not None:
            place = (source.subscription, source.partition, source.offset)
            begun.setdefault(place, []).append((row, source))
    for each in expected:
        if not each.begins:
            continue
        found = begun.pop((each.subscription, each.record.partition, each.record.offset), [])
        if not found:
            yield Violation(kind="lost", what=f"K1: {each} has begun no invocation")
        if len(found) > 1:
            yield Violation(kind="settled twice", what=f"K1: {each} has begun {[row.id for row, _ in found]}")
        for row, source in found:
            if _id_of(source.headers) != each.id or not _ended_rightly(row, each):
                yield Violation(kind="told wrongly", what=f"{each} has begun {row.id}: {row.result}")
    for place, rows in begun.items():
        yield Violation(kind="told wrongly", what=f"{place} has begun {[row.id for row, _ in rows]}")


def _every_record_was_handled_once(evidence: Evidence, expected: list[Expected]) -> Iterator[Violation]:
    """By the record's own ID, which the handlers return."""
    returned = Counter(
        (row.subscription, json.loads(row.result.content)["record"])
        for row in evidence.invocations.values()
        if row.subscription is not None and isinstance(row.result, Resolution)
    )
    wanted = Counter((each.subscription, each.id) for each in expected if each.code is None)
    for subscription, record_id in wanted - returned:
        yield Violation(kind="lost", what=f"K1: no handler of {subscription} has returned {record_id}")
    for subscription, record_id in returned - wanted:
        yield Violation(
            kind="settled twice", what=f"K1: {subscription} has returned {record_id} once too often"
        )


def _source_of(evidence: Evidence, row: Invocation) -> SourceRecord | None:
    entry = evidence.journals[row.id][0]
    return entry.record if isinstance(entry, Input) else None


def _ended_rightly(row: Invocation, each: Expected) -> bool:
    match row.result:
        case Resolution():
            return each.code is None and json.loads(row.result.content)["record"] == each.id
        case Rejection():
            return each.code == FAILED and each.id in row.result.reason
        case _:
            return False


def _what_cannot_be_used_is_one_dead_letter(
    evidence: Evidence, expected: list[Expected]
) -> Iterator[Violation]:
    """K2: exactly once, as it was in the topic; and nothing else is one."""
    letters: dict[str, list[DeadLetter]] = {}
    for letter in evidence.dead_letters:
        letters.setdefault(letter.source, []).append(letter)
    for each in expected:
        if each.code is None:
            continue
        found = letters.pop(each.source, [])
        if not found:
            yield Violation(kind="lost", what=f"K2: {each} is no dead letter")
        if len(found) > 1:
            yield Violation(kind="settled twice", what=f"K2: {each} is {len(found)} dead letters")
        record = each.record
        written = (each.code, record.partition, record.offset, record.key, record.value, each.id)
        for letter in found:
            kept = (letter.code, letter.partition, letter.offset, letter.key, letter.value)
            if (*kept, _id_of(letter.headers)) != written or letter.count != 1:
                yield Violation(kind="told wrongly", what=f"K2: {each} is kept as {letter}")
    for source, others in letters.items():
        for letter in others:
            yield Violation(kind="dead letters without cause", what=f"K2: {source}: {letter.reason}")


def _dead_letters_were_copied(evidence: Evidence) -> Iterator[Violation]:
    """K3: at least once each; two that are equal in every byte can't be told apart."""
    copies = {
        (record.key, record.value, _header(record.headers, ERROR_PREFIX + "exception.message"))
        for record in evidence.copies
    }
    for letter in evidence.dead_letters:
        if (letter.key, letter.value, letter.reason.encode()) not in copies:
            yield Violation(kind="lost", what=f"K3: no copy of the dead letter {letter.source}")


def _records_of_a_key_ran_in_order(evidence: Evidence, expected: list[Expected]) -> Iterator[Violation]:
    """O1: those of one key and partition in the order of their offsets, and each once."""
    fitting = [each for each in expected if each.subscription == ADD and each.code is None]
    places = {each.id: each.record.partition for each in fitting}
    in_topic: dict[tuple[str, int | None], list[str]] = {}
    for each in sorted(fitting, key=lambda each: each.record.offset):
        in_topic.setdefault((each.record.key.decode(), each.record.partition), []).append(each.id)
    ran: dict[tuple[str, int | None], list[str]] = {}
    for key, ids in evidence.added.items():
        for record_id in ids:
            ran.setdefault((key, places.get(record_id)), []).append(record_id)
    for place in in_topic.keys() | ran.keys():
        wanted, found = Counter(in_topic.get(place, ())), Counter(ran.get(place, ()))
        for record_id in wanted - found:
            yield Violation(kind="lost", what=f"O1: {record_id} is not in the state of {place}")
        for record_id in found - wanted:
            yield Violation(
                kind="settled twice", what=f"O1: {record_id} is once too often in the state of {place}"
            )
        if wanted == found and in_topic[place] != ran[place]:
            yield Violation(
                kind="told wrongly", what=f"O1: {place} ran {ran[place]}, in the topic was {in_topic[place]}"
            )


def _id_of(headers: Any) -> str | None:
    found = _header(headers, ID_HEADER)
    return None if found is None else found.decode()


def _header(headers: Any, wanted: str) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)

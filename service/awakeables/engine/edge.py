"""The edge check (hard case 7): a value that does not fit its awakeable is refused here.

The awakeable's own type decides: of a live wait its codec, else the type that this process has under
the name that is pinned with the row, else the one that a dry replay of its invocation finds. Only
where the type is in no code that is served here, the pinned JSON Schema decides. So a value that the
handler can't decode is not accepted, and the worker that sent it is answered so.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

import jsonschema_rs
from msgspec.structs import replace

from awakeables.core.awakeables import Completion, codec_misfit
from awakeables.core.jsontext import decode_json
from awakeables.core.outcomes import Resolution
from awakeables.core.texts import shortened
from awakeables.handlers.serde import Codec, codec_by_name, explain
from awakeables.ports import Expectation, SettlementReader

CACHED = 100_000
"""Expectations kept in memory: those of awakeables that were created here lately."""

MOST_VALIDATORS = 1000
"""Compiled schemas kept in memory, the oldest out; an app has a few."""


Learn: TypeAlias = Callable[[str, Expectation], Awaitable[Codec[Any] | None]]
"""Finds the codec of an awakeable by other means than its name."""


class Edge:
    """Checks completions against what their awakeables expect."""

    def __init__(self, reader: SettlementReader, learn: Learn) -> None:
        """Read expectations from a store; `learn` finds types that this process does not know yet."""
        self._reader = reader
        self._learn = learn
        self._expected: OrderedDict[str, Expectation] = OrderedDict()
        self._codecs: weakref.WeakValueDictionary[str, Codec[Any]] = weakref.WeakValueDictionary()
        self._validators: dict[tuple[str, bool], jsonschema_rs.Draft202012Validator] = {}

    def remember(self, awakeable_id: str, expectation: Expectation, codec: Codec[Any] | None = None) -> None:
        """Spare the look-up for an awakeable that is being created here.

        Its codec is known for as long as something else holds it: the handler that waits, or the
        types that are kept at hand.
        """
        self._expected[awakeable_id] = expectation
        if codec is not None:
            self._codecs[awakeable_id] = codec
        if len(self._expected) > CACHED:
            forgotten, _ = self._expected.popitem(last=False)
            self._codecs.pop(forgotten, None)

    async def expectation(self, awakeable_id: str) -> Expectation | None:
        """What one awakeable expects; None: it has no row."""
        return (await self._load([awakeable_id])).get(awakeable_id)

    def at_hand(self, awakeable_id: str) -> Expectation | None:
        """What one awakeable expects, if that is in memory."""
        return self._expected.get(awakeable_id)

    def knows(self, awakeable_id: str) -> bool:
        """Did its row exist when it was last looked for?"""
        return awakeable_id in self._expected

    async def check(self, completions: Iterable[Completion]) -> list[Completion]:
        """The same completions, each marked as checked, or with its refusal."""
        completions = list(completions)
        known = await self._load([c.awakeable_id for c in completions if isinstance(c.body, Resolution)])
        return [await self._check(each, known.get(each.awakeable_id)) for each in completions]

    async def _load(self, awakeable_ids: Iterable[str]) -> dict[str, Expectation]:
        """What these expect; in a dict of its own, because remembering one may forget another."""
        wanted = set(awakeable_ids)
        known = {key: self._expected[key] for key in wanted if key in self._expected}
        missing = sorted(wanted - known.keys())
        if missing:
            for awakeable_id, expectation in (await self._reader.expectations(missing)).items():
                known[awakeable_id] = expectation
                self.remember(awakeable_id, expectation)
        return known

    async def _check(self, completion: Completion, expected: Expectation | None) -> Completion:
        body = completion.body
        if expected is None or not isinstance(body, Resolution):
            return completion
        misfit = codec_misfit(expected.codec, body)
        if misfit is not None:
            return replace(completion, refusal=misfit)
        if expected.schema_hash is None:
            return completion
        codec = self._known(completion.awakeable_id, expected)
        if codec is None and expected.type_name is not None:
            codec = await self._learn(completion.awakeable_id, expected)
            if codec is not None:
                self._codecs[completion.awakeable_id] = codec
        problem = (
            self._schema_misfit(body.content, expected) if codec is None else _misfit(body.content, codec)
        )
        if problem is not None:
            return replace(completion, refusal=f"the value does not fit its type: {problem}")
        return replace(completion, checked=expected.schema_hash)

    def _known(self, awakeable_id: str, expected: Expectation) -> Codec[Any] | None:
        codec = self._codecs.get(awakeable_id)
        if codec is None and expected.type_name is not None and expected.schema_hash is not None:
            codec = codec_by_name(expected.type_name, expected.schema_hash)
        return codec

    def _schema_misfit(self, text: bytes, expected: Expectation) -> str | None:
        try:
            value = decode_json(text)
        except ValueError as error:
            return str(error)
        misfit = next(self._validator(expected).iter_errors(value), None)
        if misfit is None:
            return None
        where = ".".join(str(part) for part in misfit.instance_path) or "value"
        return f"{where}: {shortened(misfit.message)}"

    def _validator(self, expected: Expectation) -> jsonschema_rs.Draft202012Validator:
        """The compiled schema; the formats of rows without a type's name are asserted, as they were.

        Those of pydantic are wider than the formats of JSON Schema, whose names they have.
        """
        assert expected.schema_hash is not None
        asserted = expected.type_name is None
        key = (expected.schema_hash, asserted)
        validator = self._validators.get(key)
        if validator is None:
            schema = decode_json(expected.schema or b"true")
            validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=asserted, mask="it")
            if len(self._validators) >= MOST_VALIDATORS:
                del self._validators[next(iter(self._validators))]
            self._validators[key] = validator
        return validator


def _misfit(text: bytes, codec: Codec[Any]) -> str | None:
    try:
        decode_json(text)
        codec.decode(text)
    except Exception as refusal:  # a validator of the user's own may raise anything
        return explain(refusal)
    return None

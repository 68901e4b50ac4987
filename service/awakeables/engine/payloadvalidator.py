"""Validates values before they are settled (hard case 7): one that does not fit its awakeable is refused.

The awakeable's own type decides: the codec of a live wait, else the type that this process has under
the name in the row, else the one that a dry replay of the invocation finds. Only if no code here has
the type, the JSON Schema in the row decides. So a value that its handler could not decode is never
accepted, and its worker gets the verdict `invalid`.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import jsonschema_rs
from msgspec import UNSET
from msgspec.structs import replace

from awakeables.core.awakeables import Completion, codec_misfit
from awakeables.core.jsontext import decode_json
from awakeables.core.outcomes import Resolution
from awakeables.core.texts import shortened
from awakeables.handlers.serde import Codec, codec_by_name, explain
from awakeables.ports import Expectation, SettlementReader

CACHED = 100_000
"""How many expectations are kept in memory, the oldest dropped first."""

MOST_VALIDATORS = 1000
"""How many compiled schemas are kept in memory, the oldest dropped first; an app has a few."""


_Expected: TypeAlias = "tuple[Expectation, weakref.ref[Codec[Any]] | None]"

Learn: TypeAlias = Callable[[str, Expectation], Awaitable[Codec[Any] | None]]
"""Finds the codec of an awakeable whose type this process does not know by its name."""


class PayloadValidator:
    """Validates completions against what their awakeables expect."""

    def __init__(self, reader: SettlementReader, learn: Learn) -> None:
        """Read expectations from a store; `learn` finds types that this process does not know."""
        self._reader = reader
        self._learn = learn
        self._expected: OrderedDict[str, _Expected] = OrderedDict()
        self._validators: dict[tuple[str, bool], jsonschema_rs.Draft202012Validator] = {}

    def remember(self, awakeable_id: str, expectation: Expectation, codec: Codec[Any] | None = None) -> None:
        """Keep the expectation of an awakeable in memory, and its codec.

        The codec is kept for as long as something else holds it: the handler that waits, or the cache
        of types.
        """
        self._expected[awakeable_id] = (expectation, None if codec is None else weakref.ref(codec))
        if len(self._expected) > CACHED:
            self._expected.popitem(last=False)

    async def expectation(self, awakeable_id: str) -> Expectation | None:
        """What one awakeable expects; None: it has no row."""
        expected = self._expected.get(awakeable_id)
        if expected is None:
            expected = (await self._load([awakeable_id])).get(awakeable_id)
        return None if expected is None else expected[0]

    def at_hand(self, awakeable_id: str) -> Expectation | None:
        """What one awakeable expects, if that is in memory."""
        expected = self._expected.get(awakeable_id)
        return None if expected is None else expected[0]

    def knows(self, awakeable_id: str) -> bool:
        """Did its row exist when it was last looked up?"""
        return awakeable_id in self._expected

    async def validate(self, completions: Sequence[Completion]) -> list[Completion]:
        """Return the completions, with each typed value marked as checked, or the completion as refused."""
        known = await self._known(completions)
        validated = []
        for completion in completions:
            body = completion.body
            expected = known.get(completion.awakeable_id)
            if expected is not None and isinstance(body, Resolution):
                expectation, codec_ref = expected
                if (body.value is UNSET) == (expectation.codec == "json"):
                    completion = replace(completion, refusal=codec_misfit(expectation.codec, body))
                elif expectation.schema_hash is not None:
                    codec = None if codec_ref is None else codec_ref()
                    if codec is None:
                        codec = await self._find_codec(completion.awakeable_id, expectation)
                    completion = self._check(completion, body.content, expectation, codec)
            validated.append(completion)
        return validated

    async def _known(self, completions: Sequence[Completion]) -> dict[str, _Expected]:
        """What the awakeables of these values expect, as far as they have rows.

        In a dict of its own, because remembering one may drop another from the cache.
        """
        known: dict[str, _Expected] = {}
        missing: set[str] = set()
        for completion in completions:
            if isinstance(completion.body, Resolution):
                expected = self._expected.get(completion.awakeable_id)
                if expected is None:
                    missing.add(completion.awakeable_id)
                else:
                    known[completion.awakeable_id] = expected
        return known | await self._load(sorted(missing)) if missing else known

    async def _load(self, awakeable_ids: Sequence[str]) -> dict[str, _Expected]:
        loaded = await self._reader.expectations(awakeable_ids)
        for awakeable_id, expectation in loaded.items():
            self.remember(awakeable_id, expectation)
        return {awakeable_id: (expectation, None) for awakeable_id, expectation in loaded.items()}

    async def _find_codec(self, awakeable_id: str, expectation: Expectation) -> Codec[Any] | None:
        """Find the codec by the name of its type, or by a dry replay; None: its schema must do."""
        if expectation.type_name is None or expectation.schema_hash is None:
            return None
        codec = codec_by_name(expectation.type_name, expectation.schema_hash)
        if codec is None:
            codec = await self._learn(awakeable_id, expectation)
            if codec is not None:
                self.remember(awakeable_id, expectation, codec)
        return codec

    def _check(
        self, completion: Completion, text: bytes, expectation: Expectation, codec: Codec[Any] | None
    ) -> Completion:
        problem = self._schema_misfit(text, expectation) if codec is None else _misfit(text, codec)
        if problem is not None:
            return replace(completion, refusal=f"the value does not fit its type: {problem}")
        return replace(completion, checked=expectation.schema_hash)

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
        """Return the compiled schema. Its formats are asserted only for rows without a type's name.

        Those rows are of a release that asserted them. The schemas of pydantic's types name formats of
        JSON Schema, but pydantic accepts more than these allow.
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

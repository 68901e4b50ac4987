"""The edge check (hard case 7): a value that does not fit its awakeable is refused here.

The JSON Schema that is pinned with the row decides, in any process; where this process has the
type, its validator decides as well. So no value that the handler can't decode is ever accepted,
and the worker that sent it is told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import jsonschema_rs
from msgspec.structs import replace

from awakeables.core.awakeables import Completion, codec_misfit
from awakeables.core.outcomes import Resolution
from awakeables.handlers.serde import codec_by_hash, decode_json, explain
from awakeables.ports import Expectation, SettlementReader

CACHED = 100_000
"""Expectations kept in memory: those of awakeables that were created here lately."""

MOST_VALIDATORS = 1000
"""Compiled schemas kept in memory, the oldest out; an app has a few."""


class Edge:
    """Checks completions against what their awakeables expect."""

    def __init__(self, reader: SettlementReader) -> None:
        self._reader = reader
        self._expected: OrderedDict[str, Expectation] = OrderedDict()
        self._validators: dict[str, jsonschema_rs.Draft202012Validator] = {}

    def remember(self, awakeable_id: str, expectation: Expectation) -> None:
        """Spare the look-up for an awakeable that is being created here."""
        self._expected[awakeable_id] = expectation
        if len(self._expected) > CACHED:
            self._expected.popitem(last=False)

    async def expectation(self, awakeable_id: str) -> Expectation | None:
        """What one awakeable expects; None: it has no row."""
        return (await self._load([awakeable_id])).get(awakeable_id)

    def knows(self, awakeable_id: str) -> bool:
        """Did its row exist when it was last looked for?"""
        return awakeable_id in self._expected

    async def check(self, completions: Iterable[Completion]) -> list[Completion]:
        """The same completions, each marked as checked, or with its refusal."""
        completions = list(completions)
        known = await self._load([c.awakeable_id for c in completions if isinstance(c.body, Resolution)])
        return [self._check(completion, known.get(completion.awakeable_id)) for completion in completions]

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

    def _check(self, completion: Completion, expected: Expectation | None) -> Completion:
        body = completion.body
        if expected is None or not isinstance(body, Resolution):
            return completion
        misfit = codec_misfit(expected.codec, body)
        if misfit is not None:
            return replace(completion, refusal=misfit)
        if expected.schema_hash is None:
            return completion
        problem = self._misfit(body.content, expected)
        if problem is not None:
            return replace(completion, refusal=f"the value does not fit its type: {problem}")
        return replace(completion, checked=expected.schema_hash)

    def _misfit(self, text: bytes, expected: Expectation) -> str | None:
        assert expected.schema_hash is not None
        try:
            value = decode_json(text)
        except ValueError as error:
            return str(error)
        misfit = next(self._validator(expected).iter_errors(value), None)
        if misfit is not None:
            where = ".".join(str(part) for part in misfit.instance_path) or "value"
            return f"{where}: {misfit.message[:200]}"
        codec = codec_by_hash(expected.schema_hash)
        if codec is not None:
            try:
                codec.decode(text)
            except Exception as refusal:  # a validator of the user's own may raise anything
                return explain(refusal)
        return None

    def _validator(self, expected: Expectation) -> jsonschema_rs.Draft202012Validator:
        assert expected.schema_hash is not None
        validator = self._validators.get(expected.schema_hash)
        if validator is None:
            schema = decode_json(expected.schema or b"true")
            validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True, mask="it")
            if len(self._validators) >= MOST_VALIDATORS:
                del self._validators[next(iter(self._validators))]
            self._validators[expected.schema_hash] = validator
        return validator

"""Settles completions: validate, commit, wake. HTTP, handlers and Kafka batches all end here.

A value that does not fit its awakeable is refused before it is settled (hard case 7). The awakeable's own
type decides: the codec of a live wait, else the type that this process has under the name in the row, else
the one that a dry replay of the invocation finds. Only if no code here has the type, the JSON Schema in
the row decides. So a value that its handler could not decode is never accepted, and its worker gets the
verdict `invalid`.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import jsonschema_rs
from msgspec import Raw
from msgspec.structs import replace

from awakeables.core.awakeables import Completion, Heartbeat, Verdict, codec_misfit
from awakeables.core.commands import Settle
from awakeables.core.ids import Ids
from awakeables.core.jsontext import decode_json
from awakeables.core.outcomes import Resolution
from awakeables.core.replies import Fenced, SettledAll, Unchecked, Wake
from awakeables.core.sources import kind_of
from awakeables.core.texts import shortened
from awakeables.engine.committer import Committer
from awakeables.engine.horizon import Horizon
from awakeables.errors import OwnershipLost
from awakeables.handlers.serde import Codec, codec_by_name, explain
from awakeables.ports import Expectation, SettlementReader
from awakeables.telemetry.metrics import Metrics
from awakeables.telemetry.vocabulary import CompletionOrigin

if TYPE_CHECKING:
    from awakeables.telemetry.spans import Spans

CACHED = 100_000
"""How many expectations are kept in memory, the oldest dropped first."""

MOST_VALIDATORS = 1000
"""How many schemas, and compiled ones, are kept in memory, the oldest dropped first; an app has a few."""


_Expected: TypeAlias = "tuple[Expectation, weakref.ref[Codec[Any]] | None]"

Learn: TypeAlias = Callable[[str, Expectation], Awaitable[Codec[Any] | None]]
"""Finds the codec of an awakeable whose type this process does not know by its name."""


def validator_of(schema: bytes, *, formats: bool) -> jsonschema_rs.Draft202012Validator:
    """Compile a JSON Schema; `formats`: those that it names are asserted.

    Raises:
        ValueError: It is none.
    """
    return jsonschema_rs.Draft202012Validator(decode_json(schema), validate_formats=formats, mask="it")


def misfit(validator: jsonschema_rs.Draft202012Validator, value: object) -> str | None:
    """Why a value does not fit a schema, and where; None: it does."""
    error = next(validator.iter_errors(value), None)
    if error is None:
        return None
    where = ".".join(str(part) for part in error.instance_path) or "value"
    return f"{where}: {shortened(error.message)}"


class PayloadValidator:
    """Validates completions against what their awakeables expect.

    Attributes:
        keeping_late: The awakeables, as far as is known, whose late answers become dead letters.
    """

    def __init__(self, reader: SettlementReader, learn: Learn) -> None:
        """Read expectations from a store; `learn` finds types that this process does not know."""
        self._reader = reader
        self._learn = learn
        self._expected: OrderedDict[str, _Expected] = OrderedDict()
        self.keeping_late: set[str] = set()
        self._validators: dict[tuple[str, bool], jsonschema_rs.Draft202012Validator] = {}
        self._schemas: OrderedDict[str, bytes] = OrderedDict()

    def remember(self, awakeable_id: str, expectation: Expectation, codec: Codec[Any] | None = None) -> None:
        """Keep the expectation of an awakeable in memory, and its codec.

        The codec is kept for as long as something else holds it: the handler that waits, or the cache
        of types.
        """
        self._expected[awakeable_id] = (expectation, None if codec is None else weakref.ref(codec))
        if expectation.keeps_late:
            self.keeping_late.add(awakeable_id)
        if len(self._expected) > CACHED:
            dropped, _ = self._expected.popitem(last=False)
            self.keeping_late.discard(dropped)

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
        """Return the completions, with each typed value marked as checked, or the completion as refused.

        JSON values must have been found decodable (`json_fault`).
        """
        # Taken out first: remembering what is loaded may drop others from memory.
        known: dict[str, _Expected] = {}
        missing: set[str] = set()
        for completion in completions:
            if isinstance(completion.body, Resolution):
                expected = self._expected.get(completion.awakeable_id)
                if expected is None:
                    missing.add(completion.awakeable_id)
                else:
                    known[completion.awakeable_id] = expected
        if missing:
            known |= await self._load(sorted(missing))
        validated = list(completions)
        for place, completion in enumerate(completions):
            expected, body = known.get(completion.awakeable_id), completion.body
            if expected is None or not isinstance(body, Resolution):
                continue
            (expectation, codec_ref), value = expected, body.value
            if isinstance(value, Raw) != (expectation.codec == "json"):
                validated[place] = replace(completion, refusal=codec_misfit(expectation.codec, body))
                continue
            if expectation.schema_hash is None or not isinstance(value, Raw):
                continue
            codec = None if codec_ref is None else codec_ref()
            if codec is None:
                codec = await self._find_codec(completion.awakeable_id, expectation)
            problem = None
            if codec is None:
                problem = self._schema_misfit(bytes(value), expectation)
            else:
                try:
                    codec.decode(bytes(value))
                except Exception as refusal:  # the user's validator may raise anything
                    problem = explain(refusal)
            if problem is None:
                validated[place] = replace(completion, checked=expectation.schema_hash)
            else:
                problem = f"the value does not fit its type: {problem}"
                validated[place] = replace(completion, refusal=problem)
        return validated

    async def _load(self, awakeable_ids: Sequence[str]) -> dict[str, _Expected]:
        found = await self._reader.expectations(awakeable_ids)
        loaded = {awakeable_id: self._sharing(expectation) for awakeable_id, expectation in found.items()}
        for awakeable_id, expectation in loaded.items():
            self.remember(awakeable_id, expectation)
        return {awakeable_id: (expectation, None) for awakeable_id, expectation in loaded.items()}

    def _sharing(self, expectation: Expectation) -> Expectation:
        """The expectation with the same copy of its schema as others that were loaded."""
        schema_hash, schema = expectation.schema_hash, expectation.schema
        if schema_hash is None or schema is None:
            return expectation
        shared = self._schemas.setdefault(schema_hash, schema)
        if len(self._schemas) > MOST_VALIDATORS:
            self._schemas.popitem(last=False)
        return replace(expectation, schema=shared)

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

    def _schema_misfit(self, text: bytes, expected: Expectation) -> str | None:
        try:
            value = decode_json(text)
        except ValueError as error:
            return str(error)
        return misfit(self._validator(expected), value)

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
            validator = validator_of(expected.schema or b"true", formats=asserted)
            if len(self._validators) >= MOST_VALIDATORS:
                del self._validators[next(iter(self._validators))]
            self._validators[key] = validator
        return validator


class Settlement:
    """Settles completions, and wakes the invocations that wait for them.

    Attributes:
        spans: Begins the spans of completions; None: none are recorded.
    """

    def __init__(  # noqa: PLR0913 - most by name
        self,
        committer: Committer,
        validator: PayloadValidator,
        horizon: Horizon,
        *,
        ids: Ids,
        verdicts_topic: str,
        metrics: Metrics,
        spans: Spans | None = None,
        on_wakes: Callable[[Sequence[Wake]], None],
        on_effects: Callable[[], None],
        on_begun: Callable[[], None],
    ) -> None:
        """Settle through a committer.

        Args:
            committer: Commits the commands.
            validator: Validates values before they are committed.
            horizon: What deadlines are compared with.
            ids: Issues the event IDs of published verdicts.
            verdicts_topic: Where verdicts are published; empty: nowhere.
            metrics: Where verdicts are counted.
            spans: Begins the spans of completions; None: none are recorded.
            on_wakes: Called with the invocations that a commit has woken.
            on_effects: Called when a commit has queued effects that nobody has claimed.
            on_begun: Called when late answers have begun invocations.
        """
        self._committer = committer
        self._on_begun = on_begun
        self._validator = validator
        self._horizon = horizon
        self._ids = ids
        self._verdicts_topic = verdicts_topic
        self._metrics = metrics
        self.spans = spans
        self._on_wakes = on_wakes
        self._on_effects = on_effects

    async def settle(self, completion: Completion) -> Verdict | None:
        """Settle one completion that does not come from Kafka; None: a heartbeat, which was kept.

        Raises:
            StoreRefused: The store will never accept the value.
        """
        origin: CompletionOrigin = "handler" if kind_of(completion.source) == "handler" else "http"
        span = None
        if self.spans is not None and not isinstance(completion.body, Heartbeat):
            span = self.spans.settle(completion, origin)
        settled = None
        try:
            while settled is None:
                validated = await self._validator.validate([completion])
                settled = await self.commit(Settle(completions=tuple(validated)))
        except BaseException as error:
            if span is not None:
                span.ended(error=error)
            raise
        verdict = settled.verdicts[0]
        if not settled.again:
            self._metrics.settled(origin, {None if verdict is None else verdict.kind: 1})
        if span is not None:
            span.ended(verdict=None if verdict is None else verdict.kind)
        return verdict

    async def commit(self, command: Settle) -> SettledAll | None:
        """Commit validated completions, and wake the invocations that wait for them.

        The horizon and the publishing of verdicts, the same for all commands, are filled in here.

        Returns:
            The verdicts; or None if nothing was committed because a row has appeared since the
            validation, which must be repeated.

        Raises:
            OwnershipLost: The batch's partition has another reader, or the batch was settled before.
            StoreRefused: The store will never accept the command.
        """
        verdict_ids: tuple[str, ...] = ()
        if self._verdicts_topic:
            verdict_ids = tuple([self._ids.new("evt") for _ in command.completions])
        reply = await self._committer.submit(
            replace(
                command,
                held_back_to_ms=self._horizon.held_back_to_ms(),
                verdicts_to=self._verdicts_topic,
                verdict_ids=verdict_ids,
            )
        )
        match reply:
            case SettledAll():
                # Handlers in memory go on within this call, up to their next await.
                self._on_wakes(reply.wakes)
                if self._verdicts_topic:
                    self._on_effects()
                if reply.begun:
                    self._on_begun()
                return reply
            case Unchecked():
                return None
            case Fenced():
                raise OwnershipLost("the batch's partition has another reader, or it was settled before")
            case _:
                raise TypeError(f"Settle got the reply {type(reply).__name__}")

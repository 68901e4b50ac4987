"""How values become bytes and back: JSON by type, raw bytes, or a serde of the user's own.

A type's JSON Schema is pinned to each awakeable that waits for it, so that every process can
check a value at the edge; where the process has the type, its own validator decides as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from types import NoneType
from typing import Any, Generic, Protocol, TypeVar

import orjson
from pydantic import ConfigDict, PydanticInvalidForJsonSchema, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from awakeables.core.awakeables import Codec as CodecKind
from awakeables.core.outcomes import Resolution
from awakeables.core.texts import message_of

T = TypeVar("T")


class Serde(Protocol[T]):
    """A user's own way to write a value; errors of `loads` become `PayloadError`."""

    def dumps(self, value: T) -> bytes:
        """The value as bytes."""
        ...

    def loads(self, content: bytes) -> T:
        """The value that `dumps` wrote."""
        ...


class Codec(Generic[T]):
    """One type's way to bytes and back.

    Attributes:
        kind: `json`, `bytes` or `custom`.
        schema: The JSON Schema (2020-12) of a typed JSON value that is read, as JSON text.
        schema_hash: Its SHA-256; two types with one schema share it.
    """

    __slots__ = ("_written", "decode", "encode", "kind", "schema", "schema_hash")

    def __init__(
        self,
        kind: CodecKind,
        *,
        encode: Callable[[T], bytes],
        decode: Callable[[bytes], T],
        schema: bytes | None = None,
        written: Callable[[], bytes] | None = None,
    ) -> None:
        self._written = written
        self.kind = kind
        self.encode = encode
        self.decode = decode
        self.schema = schema
        self.schema_hash = None if schema is None else hashlib.sha256(schema).hexdigest()

    @property
    def written(self) -> bytes | None:
        """The JSON Schema of what is written: defaults always stand there, a Decimal is a text."""
        return self.schema if self._written is None else self._written()

    def resolution(self, value: T) -> Resolution:
        """A value as the outcome that carries it.

        Raises:
            ValueError: Its JSON could not be read again.
        """
        content = self.encode(value)
        if self.kind != "json":
            return Resolution.of_bytes(content)
        return Resolution.of_json(checked_json(content))


MAX_NESTING = 200
"""How deep JSON may be nested: pydantic's own bound, so that its readers of types agree."""


def decode_json(text: bytes) -> Any:
    """JSON as Python values; integers of any size are kept exactly.

    Raises:
        ValueError: No JSON text (NaN, bad UTF-8 and lone surrogates are none), or nested deeper
            than `MAX_NESTING`.
    """
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        if str(error).startswith("recursion limit"):
            raise ValueError(f"nested deeper than {MAX_NESTING} levels") from None
        raise


def checked_json(written: bytes) -> bytes:
    """What pydantic wrote, if it can be read again: it writes NaN, and deeper nesting than it reads.

    Raises:
        ValueError: It could not be read again.
    """
    try:
        decode_json(written)
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error}); NaN and Infinity are none") from None
    return written


ANY: Codec[Any] = Codec("json", encode=to_json, decode=decode_json)
BYTES: Codec[bytes] = Codec("bytes", encode=bytes, decode=bytes)

MOST_KEPT = 1000
"""Types that are kept at hand, the oldest out: one that a handler's body declares is new each time."""

_given: dict[Any, Codec[Any]] = {bytes: BYTES, None: ANY, Any: ANY}
_by_type: dict[Any, Codec[Any]] = {}
_by_hash: dict[str, Codec[Any]] = {}


def codec_for(type_: Any, serde: Serde[Any] | None = None) -> Codec[Any]:
    """The codec of a type: anything that pydantic validates, `bytes`, or None for any JSON.

    Raises:
        TypeError: Pydantic can't make a validator or a schema of it, or the serde is none.
    """
    if serde is not None:
        return _custom(serde)
    try:
        known = _by_type.get(type_)
    except TypeError:  # an Annotated type with unhashable metadata
        return _codec_of(type_)
    if known is None:
        known = _given.get(type_) or _codec_of(type_)
        _keep(_by_type, type_, known)
    return known


def codec_by_hash(schema_hash: str) -> Codec[Any] | None:
    """The codec of a type that this process has at hand, by the hash of its schema."""
    return _by_hash.get(schema_hash)


def _keep(kept: dict[Any, Codec[Any]], key: Any, codec: Codec[Any]) -> None:
    """Keep a codec as the newest: so one that is found by its type is found by its hash, too."""
    kept.pop(key, None)
    kept[key] = codec
    if len(kept) > MOST_KEPT:
        del kept[next(iter(kept))]


def adapter_of(type_: Any) -> TypeAdapter[Any]:
    """Pydantic's adapter of a type.

    NaN is written as such, so that it is refused; pydantic's own way is null, another value. A
    model's settings are its own.
    """
    try:
        return TypeAdapter(type_, config=ConfigDict(ser_json_inf_nan="constants"))
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        return TypeAdapter(type_)


def _custom(serde: Serde[Any]) -> Codec[Any]:
    for verb in ("dumps", "loads"):
        if isinstance(serde, type) or not callable(getattr(serde, verb, None)):
            raise TypeError(
                f"serde={serde!r:.80} is no serde: hand in an object with dumps(value) -> bytes and "
                "loads(content: bytes) -> value"
            )

    def encode(value: Any) -> bytes:
        content = serde.dumps(value)
        if not isinstance(content, bytes):
            raise TypeError(f"{serde!r:.80}.dumps returned {type(content).__name__}; a serde writes bytes")
        return content

    return Codec("custom", encode=encode, decode=serde.loads)


def _codec_of(type_: Any) -> Codec[Any]:
    try:
        adapter = adapter_of(type_)
    except Exception as error:
        raise TypeError(f"{type_!r} is no type that pydantic can validate: {error}") from error
    try:
        schema = orjson.dumps(adapter.json_schema(), option=orjson.OPT_SORT_KEYS)
    except PydanticInvalidForJsonSchema as error:
        raise TypeError(
            f"{type_!r} has no JSON Schema, so that no other process could check it: {error.message}"
        ) from error

    def decode(text: bytes) -> Any:
        return adapter.validate_json(text)

    def encode(value: Any) -> bytes:
        # An action may return what its type is made of (a dict for a model): reading it will tell.
        return adapter.dump_json(value, warnings=False)

    def written() -> bytes:
        try:
            return orjson.dumps(adapter.json_schema(mode="serialization"), option=orjson.OPT_SORT_KEYS)
        except PydanticInvalidForJsonSchema:  # it is read as something that has one, as we know
            return schema

    codec = Codec("json", encode=encode, decode=decode, schema=schema, written=written)
    if codec.schema_hash is not None:
        _keep(_by_hash, codec.schema_hash, codec)
    return codec


def explain(error: BaseException) -> str:
    """A decoding error in one line, without the value, which may be a secret."""
    return message_of(error, _explained)


def _explained(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        parts = [f"{'.'.join(map(str, p['loc'])) or 'value'}: {p['msg']}" for p in problems[:3]]
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        return "; ".join(parts) + more
    return str(error)


NOTHING = codec_for(NoneType)

"""Encodes and decodes values: JSON by type, raw bytes, or the user's own serde.

Each awakeable stores its type's name and JSON Schema. If the process has the type of that name, its
validator checks an answer; otherwise the schema does.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, Generic, Literal, Never, NoReturn, Protocol, TypeVar, cast

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    PydanticInvalidForJsonSchema,
    PydanticUserError,
    Secret,
    SecretBytes,
    SecretStr,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticSerializationError, to_json

from awakeables.core.awakeables import Codec as CodecKind
from awakeables.core.jsontext import decode_json
from awakeables.core.outcomes import Resolution
from awakeables.core.texts import described, excerpt, message_of
from awakeables.errors import ResultMisfit
from awakeables.handlers.calls import items_of
from awakeables.handlers.typenames import is_stable, type_name
from awakeables.handlers.writing import DumpOptions, dump_options_of

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")


class Serde(Protocol[T]):
    """A user's own encoding; errors of `loads` become `PayloadError`."""

    def dumps(self, value: T) -> bytes:
        """Encode a value."""
        ...

    def loads(self, content: bytes) -> T:
        """Decode what `dumps` wrote."""
        ...


class Codec(Generic[T]):
    """Encodes and decodes values of one type.

    Whatever is written is read back by the same type before it is stored or sent, so that a value that
    no later reader could decode is refused where it is made.

    Attributes:
        kind: `json`, `bytes` or `custom`.
        type_name: Of a typed JSON value the name of its type (`handlers/typenames.py`).
        schema: The JSON Schema (2020-12) of a typed JSON value that is read, as JSON text.
        schema_hash: Its SHA-256; two types with one schema share it.
        unwritable: Why no value can be written without losing a part of it; None: it can.
        unanswerable: Why no value can be written in a form that the type reads as an answer.
    """

    __slots__ = (
        "__weakref__",
        "_read_written",
        "_written",
        "decode",
        "encode",
        "kind",
        "schema",
        "schema_hash",
        "type_name",
        "unanswerable",
        "unwritable",
    )

    def __init__(  # noqa: PLR0913 - keyword-only
        self,
        kind: CodecKind,
        *,
        encode: Callable[[T], bytes],
        decode: Callable[[bytes], T],
        type_name: str | None = None,
        schema: bytes | None = None,
        written: Callable[[], bytes] | None = None,
        read_written: Callable[[bytes], T] | None = None,
        unwritable: str | None = None,
        unanswerable: str | None = None,
    ) -> None:
        self._written = written
        self.kind = kind
        self.encode = _contained(encode)
        self.decode = _contained(decode)
        self._read_written = self.decode if read_written is None else _contained(read_written)
        self.type_name = type_name
        self.schema = schema
        self.schema_hash = None if schema is None else hashlib.sha256(schema).hexdigest()
        self.unwritable = unwritable
        self.unanswerable = unwritable or unanswerable

    @property
    def written(self) -> bytes | None:
        """The JSON Schema of what is written: defaults always stand there, a Decimal is a text."""
        return self.schema if self._written is None else self._written()

    def resolution(self, value: T) -> Resolution:
        """A value as the outcome that carries it, to be read by `read_written`.

        Raises:
            Exception: It can't be written as the type, or its bytes could not be read again;
                serializers and validators of the user's own may raise anything.
        """
        return self._encoded_and_reread(value, self._read_written, self.unwritable)

    def answer(self, value: T) -> Resolution:
        """A value as the answer to an awakeable of this type.

        Raises:
            Exception: As `resolution`; or the awakeable would refuse it.
        """
        return self._encoded_and_reread(value, self.decode, self.unanswerable)

    def read_written(self, content: bytes) -> T:
        """What `resolution` wrote, in this or an earlier release, which wrote fields by name."""
        return self._read_written(content)

    def _encoded_and_reread(self, value: T, read: Callable[[bytes], T], problem: str | None) -> Resolution:
        if problem is not None:
            raise TypeError(problem)
        is_json = self.kind == "json"
        if is_json and _is_iterator(type(value)):  # type: ignore[arg-type]
            value = cast("T", items_of(cast("Any", value)))
        content = self.encode(value)
        if is_json and MASK in content and _holds_secret(value):
            raise ValueError(
                "it contains a pydantic secret, which is written as '**********': annotate the type "
                "and give the field a serializer of its own, or keep a reference to the secret instead"
            )
        if is_json and (self is ANY or b"NaN" in content or b"Infinity" in content):
            # Pydantic writes both, and its floats read them; no other reader of JSON does.
            try:
                decode_json(content)
            except ValueError as error:
                raise ValueError(f"it is not valid JSON ({error}); NaN and Infinity are not") from None
        if self is not ANY:
            read(content)
        return Resolution.of_json(content) if is_json else Resolution.of_bytes(content)


@functools.lru_cache(maxsize=1000)
def _is_iterator(type_: type) -> bool:
    return issubclass(type_, Iterator)


def _contained(call: Callable[[A], R]) -> Callable[[A], R]:
    """The same, but what it raises is an error of the value: `SystemExit` would end the process."""

    def contained(given: A) -> R:
        try:
            return call(given)
        except Exception:
            raise
        except BaseException as error:
            raise ValueError(f"a validator or serializer raised {described(error)}") from error

    return contained


MASK = b'"**********"'
"""What pydantic writes instead of a secret."""


def _holds_secret(value: Any) -> bool:
    if isinstance(value, Secret | SecretStr | SecretBytes):
        return True
    if isinstance(value, str | bytes | bytearray):
        return False
    if isinstance(value, Mapping):
        return any(_holds_secret(part) for pair in value.items() for part in pair)
    if isinstance(value, Collection):
        return any(_holds_secret(part) for part in value)
    if is_dataclass(value):  # maybe one with slots
        return any(_holds_secret(getattr(value, field.name, None)) for field in fields(value))
    parts = vars(value) if hasattr(value, "__dict__") else {}
    return _holds_secret(parts) or _holds_secret(getattr(value, "__pydantic_extra__", None) or ())


def _octets(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"expected bytes, not {type(value).__name__}")
    return bytes(value)


ANY: Codec[Any] = Codec("json", encode=to_json, decode=decode_json, type_name="Any")
BYTES: Codec[bytes] = Codec("bytes", encode=_octets, decode=bytes)

MOST_KEPT = 1000
"""Types that are kept at hand, the oldest out: one that a handler's body declares is new each time."""

_given: dict[Any, Codec[Any]] = {
    bytes: BYTES,
    None: ANY,
    Any: ANY,
    object: ANY,
    # What never returns has no result that would have to be written.
    Never: ANY,
    NoReturn: ANY,
}
_by_type: dict[Any, Codec[Any]] = {}
_by_name: dict[tuple[str, str], Codec[Any]] = {}


def codec_for(type_: Any, serde: Serde[Any] | None = None) -> Codec[Any]:
    """The codec of a type: anything that pydantic validates, `bytes`, or None for any JSON.

    Raises:
        TypeError: Pydantic can't make a validator or a schema of it, or the serde is none.
    """
    if serde is not None:
        return _custom(serde)
    try:
        # Types may be equal and not read the same: str | bytes, and bytes | str.
        key = type_ if isinstance(type_, type) else (type_, repr(type_))
        known = _by_type.get(key)
    except TypeError:  # an Annotated type with unhashable metadata
        return _codec_of(type_)
    if known is None:
        known = _given.get(type_) or _codec_of(type_)
        _keep(_by_type, key, known)
    return known


def codec_of_value(value: object) -> Codec[Any]:
    """The codec of a value without a declared type: bytes, a model or dataclass, else any JSON."""
    if isinstance(value, bytes):
        return BYTES
    if isinstance(value, BaseModel) or (is_dataclass(value) and not isinstance(value, type)):
        return codec_for(type(value))
    return ANY


def codec_by_name(name: str, schema_hash: str) -> Codec[Any] | None:
    """The codec of a type that this process has at hand, by its stable name and its schema's hash."""
    return _by_name.get((name, schema_hash))


def _keep(kept: dict[Any, Codec[Any]], key: Any, codec: Codec[Any]) -> None:
    """Keep a codec as the newest: so one that is found by its type is found by its name, too."""
    kept.pop(key, None)
    kept[key] = codec
    if len(kept) > MOST_KEPT:
        del kept[next(iter(kept))]


def result_of(codec: Codec[Any], value: Any, *, by: str, as_answer: bool = False) -> Resolution:
    """What code returned, written as its declared type and read back.

    Args:
        codec: Of the declared type.
        value: What was returned.
        by: Who returned it, for people.
        as_answer: It is to be the answer to an awakeable of that type.

    Raises:
        ResultMisfit: It can't be written as that type, or could not be read again.
    """
    try:
        return codec.answer(value) if as_answer else codec.resolution(value)
    except BaseException as error:  # serializers and validators of the user's own may raise anything
        says = "" if codec is ANY else f"says -> {codec.type_name or codec.kind} and "
        raise ResultMisfit(f"{by} {says}returned {_shown(value)}: {explain(error)}").with_traceback(
            error.__traceback__
        ) from error


def _shown(value: object) -> str:
    if type(value) in (str, int, float, bool, NoneType):
        with suppress(ValueError):  # an int of more digits than Python writes
            return excerpt(value)
    return f"an instance of {type(value).__name__}"


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
                f"serde={excerpt(serde)} is not a serde: pass an object with dumps(value) -> bytes and "
                "loads(content: bytes) -> value"
            )

    def encode(value: Any) -> bytes:
        content = serde.dumps(value)
        if not isinstance(content, bytes):
            raise TypeError(f"{excerpt(serde)}.dumps returned {type(content).__name__}; a serde writes bytes")
        return content

    return Codec("custom", encode=encode, decode=serde.loads)


class _Form:
    """How JSON of one type is written and read."""

    __slots__ = ("_adapter", "decode", "writing")

    def __init__(self, adapter: TypeAdapter[Any], writing: DumpOptions) -> None:
        self._adapter = adapter
        self.writing = writing
        # Called for each value: without the adapter's own layer, unless items must be gone through.
        self.decode: Callable[[bytes], Any] = self.read if writing.lazy else adapter.validator.validate_json

    def encode(self, value: Any) -> bytes:
        if not self.writing.lazy:  # a generator can be gone through only once
            try:
                return self._dump(value, warnings="error")
            except PydanticSerializationError:
                pass
        # What the type is made of (a dict for a model) is taken as an input would be.
        return self._dump(self._adapter.validate_python(value, by_alias=True, by_name=True))

    def read(self, text: bytes, *, by_name: bool | None = None) -> Any:
        by_alias = True if by_name else None
        if self.writing.lazy:
            try:
                self._dump(self._adapter.validate_json(text, by_alias=by_alias, by_name=by_name))
            except PydanticSerializationError:  # its message shows the value
                raise ValueError("an item of an Iterable does not fit") from None
        return self._adapter.validate_json(text, by_alias=by_alias, by_name=by_name)

    def read_by_name(self, text: bytes) -> Any:
        return self.read(text, by_name=True)

    def read_written(self, text: bytes) -> Any:
        try:
            return self.decode(text)
        except ValueError:
            # Journals of the first releases have the fields by name.
            with suppress(ValueError):
                return self.read_by_name(text)
            raise

    def described(self, schema: bytes) -> bytes:
        """The JSON Schema of what is written; of what is read, if there is none."""
        try:
            told = self._adapter.json_schema(mode="serialization", by_alias=self.writing.by_alias is True)
            return orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
        except PydanticInvalidForJsonSchema:
            return schema

    def _dump(self, value: Any, *, warnings: Literal["none", "error"] = "none") -> bytes:
        form = self.writing
        return self._adapter.serializer.to_json(
            value, by_alias=form.by_alias, round_trip=form.round_trip, warnings=warnings
        )


def _codec_of(type_: Any) -> Codec[Any]:
    try:
        adapter = adapter_of(type_)
    except Exception as error:
        raise TypeError(f"{type_!r} is not a type that pydantic can validate: {error}") from error
    try:
        schema = orjson.dumps(adapter.json_schema(), option=orjson.OPT_SORT_KEYS)
    except PydanticInvalidForJsonSchema as error:
        raise TypeError(
            f"{type_!r} has no JSON Schema, so no other process could check it: {error.message}"
        ) from error
    form = _Form(adapter, dump_options_of(adapter.core_schema))
    writing = form.writing
    name = type_name(type_)
    codec = Codec(
        "json",
        encode=form.encode,
        decode=form.decode,
        type_name=name,
        schema=schema,
        written=None if writing.round_trip else functools.partial(form.described, schema),
        read_written=form.read_by_name if writing.unread else form.read_written,
        unwritable=writing.secret,
        unanswerable=writing.unread,
    )
    if codec.schema_hash is not None and is_stable(name):
        _keep(_by_name, (name, codec.schema_hash), codec)
    return codec


def explain(error: BaseException) -> str:
    """A decoding error on one line, without the value, which may be secret."""
    return message_of(error, _explained)


def _explained(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        parts = [f"{'.'.join(map(str, p['loc'])) or 'value'}: {p['msg']}" for p in problems[:3]]
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        return "; ".join(parts) + more
    return str(error)


NOTHING = codec_for(NoneType)

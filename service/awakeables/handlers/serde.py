"""Encodes and decodes values: JSON by type, raw bytes, or the user's own serde.

Each awakeable stores its type's name and JSON Schema. An answer is validated by the type itself if the
process has a type of that name, otherwise by the schema.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, Generic, Never, NoReturn, Protocol, TypeVar, cast

import orjson
from msgspec import UNSET, Raw
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

from awakeables.core.awakeables import CodecKind
from awakeables.core.jsontext import decode_json
from awakeables.core.outcomes import Resolution
from awakeables.core.texts import described, excerpt, message_of
from awakeables.errors import ResultMisfit
from awakeables.handlers.calls import items_of
from awakeables.handlers.typenames import is_stable, type_name
from awakeables.handlers.writing import DumpOptions, dump_options_of

T = TypeVar("T")


class Serde(Protocol[T]):
    """A user's own encoding. Errors of `loads` become `PayloadError`."""

    def dumps(self, value: T) -> bytes:
        """Encode a value."""
        ...

    def loads(self, content: bytes) -> T:
        """Decode what `dumps` wrote."""
        ...


class Codec(Generic[T]):
    """Encodes and decodes values of one type.

    Every value is decoded again before it is stored or sent, so that a value that no later reader could
    decode is refused where it is made.

    Attributes:
        kind: `json`, `bytes` or `custom`.
        type_name: The name of the type of a JSON value (`handlers/typenames.py`); None: it has no type.
        schema: The JSON Schema (2020-12) of the JSON that is accepted, as JSON text.
        schema_hash: Its SHA-256; two types with one schema share it.
        load: Decodes a value. Validators may raise anything, `SystemExit` too, so this is for callers that
            catch `BaseException`; the others use `decode`.
        load_written: Decodes what `resolution` encoded, in this release or in an early one, which wrote
            fields by name. It raises as `load` does.
        unwritable: Why no value can be encoded without losing a part of it; None: it can.
        unanswerable: Why no value can be encoded in a form that the type accepts as an answer.
    """

    __slots__ = (
        "__weakref__",
        "_dump",
        "_written",
        "kind",
        "load",
        "load_written",
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
        dump: Callable[[T], bytes],
        load: Callable[[bytes], T],
        load_written: Callable[[bytes], T] | None = None,
        type_name: str | None = None,
        schema: bytes | None = None,
        written: Callable[[], bytes] | None = None,
        unwritable: str | None = None,
        unanswerable: str | None = None,
    ) -> None:
        self._dump = dump
        self._written = written
        self.kind = kind
        self.load = load
        self.load_written = load_written or load
        self.type_name = type_name
        self.schema = schema
        self.schema_hash = None if schema is None else hashlib.sha256(schema).hexdigest()
        self.unwritable = unwritable
        self.unanswerable = unwritable or unanswerable

    @property
    def written(self) -> bytes | None:
        """The JSON Schema of what is encoded: it has all fields with a default, and a Decimal is a string."""
        return self.schema if self._written is None else self._written()

    def decode(self, content: bytes) -> T:
        """Decode a value.

        Raises:
            Exception: The content does not fit the type; the user's validators may raise any.
        """
        try:
            return self.load(content)
        except Exception:
            raise
        except BaseException as error:
            raise _contained(error) from error

    def resolution(self, value: T, *, as_answer: bool = False) -> Resolution:
        """Encode a value as the outcome that carries it; `load_written` decodes it.

        Raises:
            Exception: It can't be encoded as the type, or can't be decoded again; the user's serializers and
                validators may raise any.
        """
        problem = self.unanswerable if as_answer else self.unwritable
        if problem is not None:
            raise TypeError(problem)
        is_json = self.kind == "json"
        try:
            if is_json and _is_iterator(type(value)):  # type: ignore[arg-type]
                value = cast("T", items_of(cast("Any", value)))
            content = self._dump(value)
            if is_json and MASK in content:
                _refuse_secrets(value)
            if is_json and (self is ANY or b"NaN" in content or b"Infinity" in content):
                # Pydantic writes both, and its floats accept them; no other reader of JSON does.
                try:
                    decode_json(content)
                except ValueError as error:
                    raise ValueError(f"it is not valid JSON ({error}); NaN and Infinity are not") from None
            if self is not ANY:
                (self.load if as_answer else self.load_written)(content)
        except Exception:
            raise
        except BaseException as error:
            raise _contained(error) from error
        return Resolution(value=Raw(content)) if is_json else Resolution(value_base64=content)

    def answer(self, value: T) -> Resolution:
        """Encode a value as the answer to an awakeable of this type.

        Raises:
            Exception: As `resolution`, or the awakeable would refuse it.
        """
        return self.resolution(value, as_answer=True)


@functools.lru_cache(maxsize=1000)
def _is_iterator(type_: type) -> bool:
    return issubclass(type_, Iterator)


def _contained(error: BaseException) -> ValueError:
    """What is raised instead of an error that would end the process or task, such as `SystemExit`."""
    return ValueError(f"a validator or serializer raised {described(error)}")


MASK = b'"**********"'
"""What pydantic writes instead of a secret."""


def _refuse_secrets(value: Any) -> None:
    if _holds_secret(value):
        raise ValueError(
            "it contains a pydantic secret, which is written as '**********': annotate the type and give the "
            "field its own serializer, or keep a reference to the secret instead"
        )


def _holds_secret(value: Any) -> bool:
    if isinstance(value, Secret | SecretStr | SecretBytes):
        return True
    if isinstance(value, str | bytes | bytearray):
        return False
    if isinstance(value, Mapping):
        return any(_holds_secret(part) for pair in value.items() for part in pair)
    if isinstance(value, Collection):
        return any(_holds_secret(part) for part in value)
    if is_dataclass(value):  # it may have slots
        return any(_holds_secret(getattr(value, field.name, None)) for field in fields(value))
    parts = vars(value) if hasattr(value, "__dict__") else {}
    return _holds_secret(parts) or _holds_secret(getattr(value, "__pydantic_extra__", None) or ())


def _octets(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"expected bytes, not {type(value).__name__}")
    return bytes(value)


ANY: Codec[Any] = Codec("json", dump=to_json, load=decode_json, type_name="Any")
BYTES: Codec[bytes] = Codec("bytes", dump=_octets, load=bytes)

MAX_RESULT_BYTES = 32 * 1024 * 1024
"""As much as an input may have: what one handler returns, another may take."""

MOST_KEPT = 1000
"""Size of the caches; the oldest codec is dropped. A type declared in a handler's body is new in each run."""

_given: dict[Any, Codec[Any]] = {
    bytes: BYTES,
    None: ANY,
    Any: ANY,
    object: ANY,
    # A function that never returns has no result to encode.
    Never: ANY,
    NoReturn: ANY,
}
_by_type: dict[Any, Codec[Any]] = {}
_by_name: dict[tuple[str, str], Codec[Any]] = {}


def codec_for(type_: Any, serde: Serde[Any] | None = None) -> Codec[Any]:
    """The codec of a type: anything that pydantic validates, `bytes`, or None for any JSON.

    Raises:
        TypeError: Pydantic can't make a validator or a schema for it, or the serde lacks a method.
    """
    if serde is not None:
        return _custom(serde)
    try:
        # Two types may be equal and still decode differently: str | bytes, and bytes | str.
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
    """The codec in this process for a type, found by its stable name and its schema's hash."""
    return _by_name.get((name, schema_hash))


def _keep(kept: dict[Any, Codec[Any]], key: Any, codec: Codec[Any]) -> None:
    """Cache a codec as the newest, so that one that is found by its type is found by its name, too."""
    kept.pop(key, None)
    kept[key] = codec
    if len(kept) > MOST_KEPT:
        del kept[next(iter(kept))]


def result_of(codec: Codec[Any], value: Any, *, by: str, as_answer: bool = False) -> Resolution:
    """Encode what a handler, an action or a worker's function returned.

    Args:
        codec: Of the declared type.
        value: What was returned.
        by: What returned it, for the error message.
        as_answer: The value will be the answer to an awakeable of that type.

    Raises:
        ResultMisfit: It can't be encoded as that type, can't be decoded again, or is too large.
    """
    try:
        result = codec.answer(value) if as_answer else codec.resolution(value)
    except BaseException as error:  # the user's serializers and validators may raise anything
        declares = "" if codec is ANY else f"declares -> {codec.type_name or codec.kind} but "
        raise ResultMisfit(f"{by} {declares}returned {_shown(value)}: {explain(error)}").with_traceback(
            error.__traceback__
        ) from error
    content: Any = result.value_base64 if result.value is UNSET else result.value
    size = memoryview(content).nbytes
    if size > MAX_RESULT_BYTES:
        told = f"{by} returned {size:,} bytes, and at most {MAX_RESULT_BYTES:,} are taken"
        raise ResultMisfit(f"{told}; store them elsewhere, and return a reference")
    return result


def _shown(value: object) -> str:
    if type(value) in (str, int, float, bool, NoneType):
        with suppress(ValueError):  # an int of more digits than Python writes
            return excerpt(value)
    return f"an instance of {type(value).__name__}"


def adapter_of(type_: Any) -> TypeAdapter[Any]:
    """Pydantic's adapter for a type.

    It writes NaN as NaN, which is then refused; by default pydantic would write null, a different value. A
    model keeps its own settings.
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

    def dump(value: Any) -> bytes:
        content = serde.dumps(value)
        if not isinstance(content, bytes):
            raise TypeError(f"{excerpt(serde)}.dumps returned {type(content).__name__}; it must return bytes")
        return content

    return Codec("custom", dump=dump, load=serde.loads)


class _Form:
    """How JSON of one type is written and read.

    Attributes:
        load: Decodes a value. It is pydantic's own function, without the adapter's layer, except for types
            whose items are checked one by one.
    """

    __slots__ = ("_adapter", "_writing", "load")

    def __init__(self, adapter: TypeAdapter[Any], writing: DumpOptions) -> None:
        self._adapter = adapter
        self._writing = writing
        self.load: Callable[[bytes], Any] = self._read if writing.lazy else adapter.validator.validate_json

    def dump(self, value: Any) -> bytes:
        writing, to_json_of = self._writing, self._adapter.serializer.to_json
        if not writing.lazy:  # a generator can be iterated only once
            try:
                return to_json_of(
                    value, by_alias=writing.by_alias, round_trip=writing.round_trip, warnings="error"
                )
            except PydanticSerializationError:
                pass
        # What the type can be made from (a dict for a model) is validated as an input would be.
        value = self._adapter.validate_python(value, by_alias=True, by_name=True)
        return to_json_of(value, by_alias=writing.by_alias, round_trip=writing.round_trip, warnings="none")

    def load_by_name(self, text: bytes) -> Any:
        return self._read(text, by_alias=True, by_name=True)

    def load_written(self, text: bytes) -> Any:
        try:
            return self.load(text)
        except ValueError:
            # Journals of the first releases have the fields by name.
            with suppress(ValueError):
                return self.load_by_name(text)
            raise

    def described(self, schema: bytes) -> bytes:
        """The JSON Schema of what is written, or of what is read if pydantic has none of what is written."""
        by_alias = self._writing.by_alias is True
        try:
            written = self._adapter.json_schema(mode="serialization", by_alias=by_alias)
            return orjson.dumps(written, option=orjson.OPT_SORT_KEYS)
        except PydanticInvalidForJsonSchema:
            return schema

    def _read(self, text: bytes, *, by_alias: bool | None = None, by_name: bool | None = None) -> Any:
        writing, read = self._writing, self._adapter.validate_json
        if writing.lazy:
            # Pydantic checks the items when they are iterated: here, while they are written.
            items = read(text, by_alias=by_alias, by_name=by_name)
            try:
                self._adapter.serializer.to_json(
                    items, by_alias=writing.by_alias, round_trip=writing.round_trip, warnings="none"
                )
            except PydanticSerializationError:  # its message shows the value
                raise ValueError("an item of an Iterable does not fit") from None
        return read(text, by_alias=by_alias, by_name=by_name)


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
    writing = dump_options_of(adapter.core_schema)
    form = _Form(adapter, writing)
    name = type_name(type_)
    codec = Codec(
        "json",
        dump=form.dump,
        load=form.load,
        load_written=form.load_by_name if writing.unread else form.load_written,
        type_name=name,
        schema=schema,
        written=None if writing.round_trip else functools.partial(form.described, schema),
        unwritable=writing.secret,
        unanswerable=writing.unread,
    )
    if codec.schema_hash is not None and is_stable(name):
        _keep(_by_name, (name, codec.schema_hash), codec)
    return codec


def explain(error: BaseException) -> str:
    """What is wrong with a value, on one line, without the value, which may be secret."""
    return message_of(error if isinstance(error, Exception) else _contained(error), _explained)


def _explained(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        parts = [f"{'.'.join(map(str, p['loc'])) or 'value'}: {p['msg']}" for p in problems[:3]]
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        return "; ".join(parts) + more
    return str(error)


NOTHING = codec_for(NoneType)

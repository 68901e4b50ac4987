"""CloudEvents 1.0 in Kafka records: binary (attributes in headers) or structured (JSON).

One reader for both modes. It only parses and refuses nothing: which attributes are required depends on the
type of event, which its callers know.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Collection, Mapping

import msgspec
from msgspec import UNSET, Raw, UnsetType

from awakeables.core.jsontext import has_too_many_values, json_fault
from awakeables.core.texts import excerpt

STRUCTURED = b"application/cloudevents"
"""The prefix of a structured event's content type; case does not matter."""

STRUCTURED_JSON = b"application/cloudevents+json; charset=UTF-8"
SPECVERSION = "1.0"
SPECVERSION_MEMBER = b'"specversion"'
"""Part of every structured event, and of few other records."""

PREFIX = "ce_"
CONTENT_TYPE = "content-type"


class _Address(msgspec.Struct):
    specversion: Raw | UnsetType = UNSET
    type: Raw | UnsetType = UNSET
    subject: Raw | UnsetType = UNSET


_addresses = msgspec.json.Decoder(_Address)
_members = msgspec.json.Decoder(dict[str, Raw])
_attribute = msgspec.json.Decoder(str | int | bool | None)


class CloudEvent:
    """A record as a CloudEvent.

    Attributes:
        data: JSON text, or bytes; None: no data.
        is_json: Whether `data` is JSON text.
        fault: Why the event can't be read completely; None: it can, and every reader can decode its JSON.
    """

    def __init__(
        self,
        attributes: Mapping[str, Raw | bytes | None],
        data: bytes | None = None,
        *,
        is_json: bool = True,
        fault: str | None = None,
    ) -> None:
        self._attributes = attributes
        self.fault = fault
        self.data = data
        self.is_json = is_json

    def find(self, name: str) -> str | None:
        """An attribute, even if the rest of the event is invalid; None: absent, or not text."""
        try:
            return self.get(name)
        except ValueError:
            return None

    def get(self, name: str) -> str | None:
        """An attribute as text; None: absent or empty.

        Raises:
            ValueError: It is neither a string nor a number.
        """
        value = self._attributes.get(name)
        if value is None:
            return None
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace") or None
        try:
            text = _attribute.decode(value)
        except (msgspec.MsgspecError, ValueError) as error:
            raise ValueError(f"the event's {name}: {error}") from None
        return None if text is None else str(text) or None

    def require(self, name: str) -> str:
        """As `get`.

        Raises:
            ValueError: It is absent, or not text.
        """
        value = self.get(name)
        if value is None:
            raise ValueError(f"the event has no {name}")
        return value

    def check(self) -> None:
        """Check that the event is complete and of a supported version.

        Raises:
            ValueError: It is not; the message says why.
        """
        if self.fault is not None:
            raise ValueError(self.fault)
        version = self.require("specversion")
        if version != SPECVERSION:
            raise ValueError(f"specversion {excerpt(version)} is not supported, only {SPECVERSION} is")
        for name in ("id", "source", "type"):
            self.require(name)


def read_event(
    value: bytes | None, headers: Mapping[str, bytes | None], types: Collection[str]
) -> CloudEvent | None:
    """The CloudEvent in a record: by its headers or, for one of these types, by its value; None: no event.

    Some SDKs write structured events without a content type, or with that of the data. A JSON object
    with a `specversion` and one of our types can only be an event.
    """
    content_type = headers.get(CONTENT_TYPE) or b""
    if content_type[: len(STRUCTURED)].lower() == STRUCTURED:
        return _structured(value, content_type)
    binary = _binary(value, headers, content_type) if headers.get("ce_type") else None
    if binary is not None and binary.find("type") in types:
        return binary
    if value is not None and SPECVERSION_MEMBER in value:
        event = _structured(value, STRUCTURED_JSON)
        if event.find("specversion") is not None and event.find("type") in types:
            return event
    return binary


def is_json_type(content_type: bytes) -> bool:
    """Whether this content type is JSON. An empty one counts as JSON."""
    media_type = content_type.partition(b";")[0].strip().lower()
    return media_type in (b"", b"application/json", b"text/json") or media_type.endswith(b"+json")


def _binary(value: bytes | None, headers: Mapping[str, bytes | None], content_type: bytes) -> CloudEvent:
    attributes = {
        name[len(PREFIX) :]: content for name, content in headers.items() if name.startswith(PREFIX)
    }
    is_json = is_json_type(content_type)
    if is_json and not value:
        return CloudEvent(attributes)  # no data: no JSON text is empty
    fault = json_fault(value) if is_json and value is not None else None
    return CloudEvent(attributes, value, is_json=is_json, fault=fault)


def _structured(value: bytes | None, content_type: bytes) -> CloudEvent:
    media_type = content_type.partition(b";")[0].strip().lower()
    if media_type != STRUCTURED + b"+json":
        shown = excerpt(media_type.decode("utf-8", "replace"))
        unknown = f"content-type {shown} is not supported; structured events are JSON, one per record"
        return CloudEvent({}, fault=unknown)
    if not value:
        return CloudEvent({}, fault="the record has no value; a structured event is a JSON object")
    fault = json_fault(value)
    try:
        members: dict[str, Raw] = (
            _few_members(value) if has_too_many_values(value) else _members.decode(value)
        )
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        return CloudEvent({}, fault=f"not a structured event: {error}")
    try:
        data, is_json = _data(members.pop("data", UNSET), members.pop("data_base64", UNSET))
    except ValueError as error:
        return CloudEvent(members, fault=fault or str(error))
    return CloudEvent(members, data, is_json=is_json, fault=fault)


def _few_members(value: bytes) -> dict[str, Raw]:
    """The members that identify an event's awakeable, from an object with any number of members."""
    few = msgspec.structs.asdict(_addresses.decode(value))
    return {name: text for name, text in few.items() if text is not UNSET}


def _data(text: Raw | UnsetType, base64: Raw | UnsetType) -> tuple[bytes | None, bool]:
    if base64 is UNSET:
        return (None if text is UNSET else bytes(text)), True
    if text is not UNSET:
        raise ValueError("the event has both data and data_base64; send one")
    try:
        return b64decode(msgspec.json.decode(base64, type=str), validate=True), False
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"the event's data_base64 is not base64: {error}") from None

"""What a service and a function say to each other: JSON in the bodies of HTTP.

`POST` to the function's URL carries a `FunctionRequest`, and its answer is a `FunctionAnswer`; the answer to
`GET` is a `Description`. Fields may be added; a reader ignores those that it does not know.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from awakeables.core.awakeables import CodecKind
from awakeables.core.records import Record
from awakeables.handlers.attempt import Progress
from awakeables.handlers.service import HandlerKind
from awakeables.handlers.stateless import AdvanceRequest

PROTOCOL: Final = 1
"""The version of these messages; it changes when a reader of the last one would misunderstand them."""


class FunctionRequest(Record):
    """One call of `advance`, with what the handler's context must know of the service.

    Attributes:
        app: The service's app, which is in the IDs of what it publishes.
        reply_to: The topic for completions, which tasks name.
        revoke_to: The topic for revocations.
        max_entries: The maximum length of a journal.
        max_actions: How many actions of an attempt are executed at the same time.
    """

    advance: AdvanceRequest
    app: str
    reply_to: str
    max_entries: int
    max_actions: int
    revoke_to: str | None = None
    protocol: int = PROTOCOL


class FunctionAnswer(Record):
    """The answer to a `FunctionRequest`.

    Attributes:
        build: The version of the code that answers, so that a new deployment is noticed.
    """

    progress: Progress
    build: str = ""


class DescribedValue(Record):
    """The type of an input or a result.

    Attributes:
        schema: The JSON Schema of what is accepted.
        written: The JSON Schema of what is written, if it is another.
    """

    kind: CodecKind = "json"
    schema: Raw | UnsetType = UNSET
    written: Raw | UnsetType = UNSET


class DescribedHandler(Record):
    """One handler of a function.

    Attributes:
        input: None: it takes none.
        default: The default of its input, if JSON can express it.
        has_default: Its input may be left out.
        doc: Its docstring.
    """

    service: str
    name: str
    kind: HandlerKind = "service"
    version: int = 1
    private: bool = False
    input: DescribedValue | None = None
    output: DescribedValue = DescribedValue()
    default: Raw | UnsetType = UNSET
    has_default: bool = False
    doc: str = ""


class Description(Record):
    """What a function has.

    Attributes:
        app: The name of its app, for people.
        build: The version of its code, as it says.
        limit_ms: How long it works on a request at most.
    """

    handlers: tuple[DescribedHandler, ...]
    limit_ms: int
    app: str = ""
    build: str = ""
    protocol: int = PROTOCOL


encode = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(FunctionRequest).decode
decode_answer = msgspec.json.Decoder(FunctionAnswer).decode
decode_description = msgspec.json.Decoder(Description).decode

"""Makes a service's handlers from what its function says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import Raw
from pydantic_core import to_json

from awakeables.core.jsontext import decode_json
from awakeables.engine.settlement import misfit, validator_of
from awakeables.errors import DeclarationError, OperatorError
from awakeables.handlers.remoteservice import RemoteService
from awakeables.handlers.serde import BYTES, NOTHING, Codec
from awakeables.handlers.service import Handler
from awakeables.remote.messages import (
    PROTOCOL,
    DescribedHandler,
    DescribedValue,
    Description,
    decode_description,
)

MARGIN_MS = 2_000
"""For what a function does when its limit is over, and for the way back."""


class FunctionMisfit(OperatorError):
    """A function is not what its remote service declares, or can't be asked what it is."""


def learn(service: RemoteService, content: bytes, *, keeps: bool = False) -> Description:
    """Give a service the handlers that its function describes.

    Args:
        service: Has them from now on.
        content: A `Description`, as JSON.
        keeps: It also keeps those that are not described any more: open invocations may be theirs, and the
            next deployment may have them again.

    Raises:
        FunctionMisfit: It is none, or what the function has can't be served.
    """
    try:
        description = decode_description(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FunctionMisfit(f"what answers at {service.url} is not a function: {error}") from error
    try:
        handlers = list(_handlers(service, description))
        if keeps:
            known = {(handler.name, handler.version) for handler in handlers}
            handlers += [each for each in service.all_handlers() if (each.name, each.version) not in known]
        service.learn(handlers)
    except (DeclarationError, ValueError, RecursionError) as error:
        raise FunctionMisfit(f"the function at {service.url} can't be served: {error}") from error
    return description


def _handlers(service: RemoteService, description: Description) -> Iterator[Handler]:
    where = f"the function at {service.url}"
    if description.protocol != PROTOCOL:
        raise FunctionMisfit(
            f"{where} speaks protocol {description.protocol}, this service {PROTOCOL}: deploy both with the "
            "same release of awakeables"
        )
    if description.limit_ms + MARGIN_MS > service.timeout.total_seconds() * 1000:
        raise FunctionMisfit(
            f"{where} may work {description.limit_ms / 1000:g} s on a request, but the timeout= of "
            f"{service.name} is {service.timeout.total_seconds():g} s: it must be {MARGIN_MS // 1000} s more"
        )
    own = [handler for handler in description.handlers if handler.service == service.name]
    if not own:
        known = ", ".join(sorted({handler.service for handler in description.handlers})) or "none"
        raise FunctionMisfit(f"{where} has no service {service.name!r}; it has: {known}")
    for described in own:
        if described.kind != "service":
            raise FunctionMisfit(
                f"{where}: {service.name!r} is an object or a workflow there, and a remote service is neither"
            )
        yield RemoteHandler(described, service)
    missing = service.named_handlers.keys() - {described.name for described in own}
    if missing:
        known = ", ".join(sorted({described.name for described in own}))
        raise FunctionMisfit(f"{where}: {service.name} has no handler {min(missing)!r}; it has: {known}")


class RemoteHandler(Handler):
    """A handler whose function is elsewhere."""

    def __init__(self, described: DescribedHandler, service: RemoteService) -> None:
        """Take what the function says of it.

        Raises:
            DeclarationError: Its name, its version or a schema can't be used.
        """
        name = described.name
        referred = service.named_handlers.get(name)
        function = service.stand_in(name) if referred is None else referred
        function.__doc__ = described.doc
        super().__init__(
            described.service,
            name,
            function,
            private=described.private,
            version=described.version,
        )
        self.takes_input = described.input is not None
        self.input = NOTHING if described.input is None else _codec(described.input, self)
        self.has_default = described.has_default
        self.default = decode_json(bytes(described.default)) if isinstance(described.default, Raw) else None
        if referred is None:
            self.output = _codec(described.output, self)


def _codec(described: DescribedValue, handler: Handler) -> Codec[Any]:
    if described.kind != "json":
        return BYTES
    schema = bytes(described.schema) if isinstance(described.schema, Raw) else None
    written = bytes(described.written) if isinstance(described.written, Raw) else schema
    return Codec(
        "json",
        dump=to_json,
        load=_loader(schema, handler),
        load_written=decode_json,
        schema=schema,
        written=lambda: written or b"true",
    )


def _loader(schema: bytes | None, handler: Handler) -> Callable[[bytes], Any]:
    if schema is None:
        return decode_json
    try:
        # Formats aren't asserted: pydantic accepts more than JSON Schema's allow.
        validator = validator_of(schema, formats=False)
    except ValueError as error:
        why = str(error).partition("\n")[0]
        where = f"handler {handler.service}/{handler.name}"
        raise DeclarationError(f"{where}: the schema of its input or result is none: {why}") from error

    def load(content: bytes) -> Any:
        value = decode_json(content)
        problem = misfit(validator, value)
        if problem is not None:
            raise ValueError(problem)
        return value

    return load

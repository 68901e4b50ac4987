"""Declarations: apps, services, handlers. Importing them loads no driver and starts nothing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Sequence
from copy import deepcopy
from dataclasses import is_dataclass
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from awakeables.core.texts import excerpt
from awakeables.errors import DeclarationError, InvalidInput, NotFound
from awakeables.handlers.context import Context
from awakeables.handlers.serde import NOTHING, Codec, codec_for, explain

P = ParamSpec("P")
R = TypeVar("R")
HandlerFunction = Callable[Concatenate[Context, P], Awaitable[R]]

RESERVED_SERVICES = frozenset(
    {
        "restate",
        "awakeables",
        "invocations",
        "instances",
        "dead-letters",
        "outbox",
        "offsets",
        "health",
        "metrics",
        "openapi.json",
        "asyncapi.json",
        "docs",
    }
)
"""First segments of the service's own paths."""

RESERVED_HANDLERS = frozenset({"send"})
"""`POST /{service}/{handler}/send` would be ambiguous."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Handler:
    """A function that can be replayed, and the codecs of its input and result."""

    def __init__(self, service: str, name: str, function: Callable[..., Awaitable[Any]]) -> None:
        """Inspect the function's signature.

        Raises:
            DeclarationError: It is not `async`, has other parameters than a context and at most one input,
                or has a type that can't be used.
        """
        self.service = service
        self.name = _checked_name(name, "handler")
        self.function = function
        where = f"handler {service}/{name}"
        if name in RESERVED_HANDLERS:
            raise DeclarationError(f"{where}: the name {name!r} is reserved; choose another")
        if not inspect.iscoroutinefunction(function):
            raise DeclarationError(f"{where}: declare it with `async def`; blocking calls belong in ctx.run")
        parameters = list(inspect.signature(function).parameters.values())
        positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
        if not 1 <= len(parameters) <= 2 or any(p.kind not in positional for p in parameters):
            raise DeclarationError(
                f"{where}: it takes a Context and at most one input, (ctx) or (ctx, input)"
            )
        try:
            hints = get_type_hints(function, include_extras=True)
        except NameError as error:
            raise DeclarationError(f"{where}: a type in its signature can't be resolved: {error}") from error
        first = hints.get(parameters[0].name, Any)
        if first is not Context and first is not Any:
            raise DeclarationError(
                f"{where}: its first parameter must be the Context, not {excerpt(first)}; write "
                "(ctx: Context) or (ctx: Context, input)"
            )
        self.takes_input = len(parameters) == 2
        self.default: Any = parameters[1].default if self.takes_input else inspect.Parameter.empty
        self.has_default = self.default is not inspect.Parameter.empty
        self.input: Codec[Any] = NOTHING
        if self.takes_input:
            taken = hints.get(parameters[1].name, Any)
            if _has_field_default(taken, self.default):
                raise DeclarationError(
                    f"{where}: the default of its input is in Field(…), which Python does not see; "
                    f"write it as a Python default: {parameters[1].name}: Annotated[…, Field(…)] = default"
                )
            self.input = _codec(taken, where)
        self.output: Codec[Any] = _codec(hints.get("return", Any), where)
        if self.output.unwritable is not None:
            raise DeclarationError(f"{where}: its result can't be stored: {self.output.unwritable}")

    def __repr__(self) -> str:
        return f"<handler {self.service}/{self.name}>"

    def call(self, context: Context, *given: Any) -> Awaitable[Any]:
        """Call the function with its input, or with a copy of the default, which it may modify."""
        if self.takes_input and not given and self.has_default:
            is_mutable = isinstance(self.default, list | dict | set | BaseModel) or is_dataclass(self.default)
            given = (deepcopy(self.default) if is_mutable else self.default,)
        return self.function(context, *given)

    def accept(self, content: bytes | None) -> bytes | None:
        """Validate an input; return the text to store, or None to use the handler's default.

        If no input is given and there is no default, it is null.

        Raises:
            InvalidInput: It does not fit the handler's input type.
        """
        where = f"{self.service}/{self.name}"
        if not self.takes_input:
            if content not in (None, b"null"):
                raise InvalidInput(f"{where} takes no input; send no body")
            return None
        if content is None and self.has_default:
            return None
        if self.input.kind != "json":
            return content or b""
        try:
            self.input.decode(b"null" if content is None else content)
        except Exception as error:  # the user's validator may raise anything
            needed = "a body is required: " if content is None else ""
            raise InvalidInput(
                f"{needed}the body does not fit the input of {where}: {explain(error)}"
            ) from error
        return b"null" if content is None else content


class Service:
    """A named group of handlers.

    Raises:
        DeclarationError: The name is reserved or can't be used in a URL.
    """

    def __init__(self, name: str) -> None:
        self.name = _checked_name(name, "service")
        if name in RESERVED_SERVICES:
            raise DeclarationError(f"service {name!r}: the name is reserved for the service's own paths")
        self.handlers: dict[str, Handler] = {}

    def handler(self, name: str | None = None) -> Callable[[HandlerFunction[P, R]], HandlerFunction[P, R]]:
        """Declare an async function `(ctx)` or `(ctx, input)` as a handler.

        Its name is the function's, unless one is given. The function is returned unchanged.

        Raises:
            DeclarationError: The service has a handler of that name, the function can't be a handler, or the
                parentheses are missing.
        """
        if not isinstance(name, str | None):
            raise DeclarationError(
                f"service {self.name!r}: a handler's name must be a string, not {excerpt(name)}; without "
                "one, keep the parentheses: @service.handler()"
            )

        def declare(function: HandlerFunction[P, R]) -> HandlerFunction[P, R]:
            chosen = name or str(getattr(function, "__name__", ""))
            if chosen in self.handlers:
                raise DeclarationError(f"service {self.name!r} has two handlers called {chosen!r}")
            self.handlers[chosen] = Handler(self.name, chosen, function)
            return function

        return declare


class App:
    """A named set of services that share a store, a completions topic and a consumer group.

    Attributes:
        name: Also the consumer group, and the first part of the topics' names.
    """

    def __init__(self, name: str, *, services: Sequence[Service]) -> None:
        """Collect the services.

        Raises:
            DeclarationError: Two services have the same name, or there are none.
        """
        self.name = _checked_name(name, "app")
        self.services: dict[str, Service] = {}
        for service in services:
            if service.name in self.services:
                raise DeclarationError(f"app {name!r} has two services called {service.name!r}")
            self.services[service.name] = service
        if not services:
            raise DeclarationError(f"app {name!r} has no services")

    @property
    def completions_topic(self) -> str:
        return f"{self.name}.completions"

    @property
    def dead_letter_topic(self) -> str:
        return f"{self.name}.completions.dlq"

    @property
    def verdicts_topic(self) -> str:
        return f"{self.name}.verdicts"

    def handler(self, service: str, name: str) -> Handler:
        """Find a handler by name.

        Raises:
            NotFound: There is none; the message lists those that exist.
        """
        if service not in self.services:
            raise NotFound(f"no service {service!r}; there are: {', '.join(sorted(self.services))}")
        handlers = self.services[service].handlers
        if name not in handlers:
            raise NotFound(
                f"service {service!r} has no handler {name!r}; it has: {', '.join(sorted(handlers))}"
            )
        return handlers[name]

    @property
    def targets(self) -> list[str]:
        """All handlers, as `service/handler`."""
        return [f"{service.name}/{name}" for service in self.services.values() for name in service.handlers]

    def find(self, function: Callable[..., Any]) -> Handler:
        """Find the handler that this function was declared as.

        Raises:
            NotFound: No service of this app declares it.
        """
        for service in self.services.values():
            for handler in service.handlers.values():
                if handler.function is function:
                    return handler
        raise NotFound(f"{function!r} is not a handler of app {self.name!r}")


def _checked_name(name: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise DeclarationError(
            f"{what} {name!r}: a name has letters, digits, '.', '_' and '-', begins with a letter or digit, "
            "and has at most 100 characters"
        )
    return name


def _has_field_default(type_: Any, default: object) -> bool:
    """Whether the input has a default in `Field(…)`, which only pydantic knows."""
    metadata = get_args(type_)[1:] if get_origin(type_) is Annotated else ()
    fields = (part for part in metadata if isinstance(part, FieldInfo))
    return isinstance(default, FieldInfo) or not all(part.is_required() for part in fields)


def _codec(type_: Any, where: str) -> Codec[Any]:
    try:
        return codec_for(type_)
    except TypeError as error:
        raise DeclarationError(f"{where}: {error}") from error

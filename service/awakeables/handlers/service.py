"""Declarations: apps, services, handlers. Importing them loads no driver and starts nothing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import is_dataclass, replace
from datetime import timedelta
from typing import (
    Annotated,
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)
from weakref import WeakKeyDictionary, WeakSet

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from awakeables.core.jsontext import json_fault
from awakeables.core.outcomes import Resolution, encode_outcome
from awakeables.core.texts import excerpt
from awakeables.core.versions import HandlerName, first_versions, target
from awakeables.errors import DeclarationError, InvalidInput, NotFound
from awakeables.handlers import promises
from awakeables.handlers.context import Context
from awakeables.handlers.objectcontext import ObjectContext, SharedContext
from awakeables.handlers.promises import PromiseName
from awakeables.handlers.schedule import Schedule
from awakeables.handlers.scheduling import DeclaredSchedule, declared_schedules
from awakeables.handlers.serde import NOTHING, Codec, codec_for, explain
from awakeables.handlers.state import MAX_VALUE_BYTES, NO_DEFAULT, State, checked_name, declared
from awakeables.handlers.subscription import Subscription
from awakeables.handlers.versions import is_version
from awakeables.ports import PayloadCodec

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
HandlerFunction = Callable[Concatenate[Context, P], Awaitable[R]]
ExclusiveFunction = Callable[Concatenate[ObjectContext, P], Awaitable[R]]
SharedFunction = Callable[Concatenate[SharedContext, P], Awaitable[R]]

HandlerKind: TypeAlias = Literal["service", "exclusive", "shared", "run", "signal"]

CONTEXTS: Mapping[HandlerKind, type[Context]] = {
    "service": Context,
    "exclusive": ObjectContext,
    "shared": SharedContext,
    "run": ObjectContext,
    "signal": SharedContext,
}
"""What each kind of handler gets as its first argument."""

RESERVED_SERVICES = frozenset(
    {
        "restate",
        "awakeables",
        "invocations",
        "instances",
        "objects",
        "dead-letters",
        "outbox",
        "offsets",
        "subscriptions",
        "schedules",
        "versions",
        "pauses",
        "functions",
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

MAX_SUBSCRIPTION = 201
"""Longest name of a subscription: that of a service, a dot, and that of a handler."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Handler:
    """A function that can be replayed, and the codecs of its input and result.

    Attributes:
        keyed: Whether it is called for a key.
        exclusive: Whether it is the only one of its key that runs.
        of_workflow: Whether it is one of a workflow.
        promises: Of a workflow's handler: what each run is begun with, by name.
        subscription: The topic whose records it is called with, if any; it has a name.
        schedules: When it is begun by itself.
        version: Its number among the functions of its name.
        versions: What the row of a new invocation names because of it.
    """

    def __init__(  # noqa: PLR0913 - what a declaration may say
        self,
        service: str,
        name: str,
        function: Callable[..., Awaitable[Any]],
        *,
        private: bool = False,
        kind: HandlerKind = "service",
        max_queue: int | None = None,
        topic: str | Subscription | None = None,
        schedule: Schedule | Sequence[Schedule] | None = None,
        promises: Mapping[str, PromiseName[Any]] | None = None,
        version: int = 1,
    ) -> None:
        """Inspect the function's signature.

        Args:
            service: The name of the service or object.
            name: The handler's name.
            function: What was declared.
            private: It can't be called from outside.
            kind: Of a service; of an object: exclusive, or shared; of a workflow: its run, or another.
            max_queue: How many calls of an exclusive handler's key may be open.
            topic: A topic whose records it is called with, or how.
            schedule: When it is begun by itself.
            promises: Those of its workflow, also those that are declared later.
            version: Its number among the functions of this name.

        Raises:
            DeclarationError: It is not `async`, has other parameters than a context and at most one input,
                or has a type that can't be used.
        """
        self.service = service
        self.name = _checked_name(name, "handler")
        self.function = function
        self.private = private
        self.kind = kind
        self.max_queue = max_queue
        self.keyed = kind != "service"
        self.exclusive = kind == "exclusive"
        self.of_workflow = kind in ("run", "signal")
        self.promises = promises or {}
        self.context = CONTEXTS[kind]
        self.version = version
        where = f"handler {service}/{name}"
        if not is_version(version):
            raise DeclarationError(f"{where}: a version is a whole number from 1 on, not {excerpt(version)}")
        self.versions = first_versions(version)
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
        if first is not Any and not (isinstance(first, type) and issubclass(self.context, first)):
            needed = self.context.__name__
            raise DeclarationError(
                f"{where}: its first parameter must be the {needed}, not {excerpt(first)}; write "
                f"(ctx: {needed}) or (ctx: {needed}, input)"
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
        self.subscription = None if topic is None else self._subscription(topic, where)
        self.schedules: tuple[DeclaredSchedule, ...] = ()
        if schedule is not None:
            self.schedules = declared_schedules(self, schedule, where)

    def _subscription(self, topic: str | Subscription, where: str) -> Subscription:
        if not isinstance(topic, str | Subscription):
            raise DeclarationError(
                f"{where}: topic= is the name of a topic or a Subscription, not {excerpt(topic)}"
            )
        subscription = Subscription(topic) if isinstance(topic, str) else topic
        if not self.takes_input:
            raise DeclarationError(
                f"{where}: it is called with the records of a topic, so it takes (ctx, input); bytes are the "
                "values as they are"
            )
        if subscription.key is not None and not self.keyed:
            raise DeclarationError(f"{where}: a service has no keys; leave out key=, or use a VirtualObject")
        name = subscription.name or f"{self.service}.{self.name}"
        return replace(subscription, name=_checked_name(name, "subscription", most=MAX_SUBSCRIPTION))

    def __repr__(self) -> str:
        version = f" version {self.version}" if self.version > 1 else ""
        return f"<handler {self.service}/{self.name}{version}>"

    def call(self, context: Context, *given: Any) -> Awaitable[Any]:
        """Call the function with its input, or with a copy of the default, which it may modify."""
        if self.takes_input and not given and self.has_default:
            is_mutable = isinstance(self.default, list | dict | set | BaseModel) or is_dataclass(self.default)
            given = (deepcopy(self.default) if is_mutable else self.default,)
        return self.function(context, *given)

    def accept(self, content: bytes | None, what: str = "body") -> bytes | None:
        """Validate an input; return the text to store, or None to use the handler's default.

        If no input is given and there is no default, it is null.

        Args:
            content: The input; None: none is given.
            what: What it is, for messages.

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
            needed = f"a {what} is required: " if content is None else ""
            raise InvalidInput(
                f"{needed}the {what} does not fit the input of {where}: {explain(error)}"
            ) from error
        return b"null" if content is None else content


_declared: WeakKeyDictionary[Callable[..., Any], WeakSet[HandlerGroup]] = WeakKeyDictionary()
"""The services and objects that declare a function, as long as there are any."""


def groups(function: Callable[..., Any]) -> Sequence[HandlerGroup]:
    """The groups of which a function is a handler; of a remote service also before it knows its handlers."""
    try:
        return sorted(_declared.get(function, ()), key=lambda group: group.name)
    except TypeError:  # it is no function: what can't be hashed, or weakly referred to
        return ()


def declarations(function: Callable[..., Any]) -> Sequence[tuple[HandlerGroup, Handler]]:
    """What a function was declared as, and where; usually one handler of one service."""
    handlers = [(group, each) for group in groups(function) for each in group.all_handlers()]
    return [(service, handler) for service, handler in handlers if handler.function is function]


class HandlerGroup:
    """What services and virtual objects have in common: a name, and handlers.

    Attributes:
        handlers: By name; of several versions the highest, which is what is called.
        versions: All versions of each handler, by name and version.
        learned: How often its handlers were read from elsewhere.
    """

    learned = 0

    def __init__(self, name: str, *, what: str) -> None:
        """Begin without handlers.

        Raises:
            DeclarationError: The name is reserved or can't be used in a URL.
        """
        self.name = _checked_name(name, what)
        if name in RESERVED_SERVICES:
            raise DeclarationError(f"{what} {name!r}: the name is reserved for the service's own paths")
        self.handlers: dict[str, Handler] = {}
        self.versions: dict[str, dict[int, Handler]] = {}
        self._what = what

    @property
    def what(self) -> str:
        """`service`, `object` or `workflow`."""
        return self._what

    @property
    def none_yet(self) -> str:
        """Why it has no handlers, if it has none."""
        return "it has none"

    def _declare(self, function: F, name: str | None, **options: Any) -> F:
        """Declare a function as a handler; return it unchanged."""
        chosen = name or str(getattr(function, "__name__", ""))
        self.add(Handler(self.name, chosen, function, **options))
        self._is_of(function)
        return function

    def _is_of(self, function: Callable[..., Any]) -> None:
        """Remember that a function is one of this group's handlers, for `declarations`."""
        _declared.setdefault(function, WeakSet()).add(self)

    def add(self, handler: Handler) -> None:
        """Add a handler, or another version of one.

        Raises:
            DeclarationError: There is one of this name and version, or one of another kind.
        """
        versions = self.versions.setdefault(handler.name, {})
        if handler.version in versions:
            raise DeclarationError(
                f"{self._what} {self.name!r} has two handlers called {handler.name!r} of version "
                f"{handler.version}: give the new one another version="
            )
        other = next(iter(versions.values()), handler)
        if other.kind != handler.kind:
            raise DeclarationError(
                f"{self._what} {self.name!r}: version {handler.version} of {handler.name!r} is "
                f"{handler.kind}, version {other.version} is {other.kind}"
            )
        versions[handler.version] = handler
        self.handlers[handler.name] = versions[max(versions)]

    def all_handlers(self) -> list[Handler]:
        """All versions of all handlers."""
        return [handler for versions in self.versions.values() for handler in versions.values()]

    def _check_name(self, name: object) -> None:
        if not isinstance(name, str | None):
            raise DeclarationError(
                f"{self._what} {self.name!r}: a handler's name must be a string, not {excerpt(name)}; "
                f"without one, keep the parentheses: @{self._what}.handler()"
            )


class Service(HandlerGroup):
    """A named group of handlers.

    Raises:
        DeclarationError: The name is reserved or can't be used in a URL.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, what="service")

    def handler(
        self,
        name: str | None = None,
        *,
        private: bool = False,
        topic: str | Subscription | None = None,
        schedule: Schedule | Sequence[Schedule] | None = None,
        version: int = 1,
    ) -> Callable[[HandlerFunction[P, R]], HandlerFunction[P, R]]:
        """Declare an async function `(ctx)` or `(ctx, input)` as a handler.

        The function is returned unchanged: it is what other handlers pass to `ctx.call`.

        Args:
            name: The handler's name; by default the function's.
            private: Only other handlers can call it: over HTTP there is no such handler.
            topic: A topic whose records it is called with, or how; it can be called in other ways, too.
            schedule: When it is begun by itself; a tuple of several.
            version: A higher number than that of an older function of this name, which is declared beside it.
                What is called from now on begins with the highest version, and ends with it.

        Raises:
            DeclarationError: The service has a handler of that name and version, the function can't be a
                handler, or the parentheses are missing.
        """
        self._check_name(name)

        def declare(function: HandlerFunction[P, R]) -> HandlerFunction[P, R]:
            return self._declare(
                function, name, private=private, topic=topic, schedule=schedule, version=version
            )

        return declare


class KeyedGroup(HandlerGroup):
    """What virtual objects and workflows have in common: a state for each key."""

    def __init__(self, name: str, *, what: str) -> None:
        super().__init__(name, what=what)
        self.states: dict[str, State[Any]] = {}

    @overload
    def state(self, name: str, type: type[T]) -> State[T | None]: ...
    @overload
    def state(self, name: str, type: type[T], *, default: T | Callable[[], T]) -> State[T]: ...
    @overload
    def state(self, name: str, type: Any, *, default: Any = ...) -> State[Any]: ...

    def state(self, name: str, type: Any, *, default: Any = NO_DEFAULT) -> State[Any]:
        """Declare a name of the state of each key; `ctx.get` and `ctx.set` take what is returned.

        Args:
            name: The name under which it is stored.
            type: The type of the value: anything that pydantic validates.
            default: What `ctx.get` gives where nothing is stored, or a function that makes it. Without one it
                is None.

        Raises:
            DeclarationError: The name was declared before, or it or the type can't be used.
        """
        if name in self.states:
            raise DeclarationError(f"{self._what} {self.name!r} declares the state {name!r} twice")
        self.states[name] = declared(self.name, name, type, default)
        return self.states[name]

    def stored_state(self, name: str, text: bytes | None) -> bytes | None:
        """A value for a name of the state, as `StateWrite` has it.

        Args:
            name: A name that is declared, or one of a family, or any other.
            text: JSON; of a declared name its type must accept it. None: the name is removed.

        Raises:
            InvalidInput: The name can't be one, or the value does not fit.
        """
        try:
            checked_name(name)
        except DeclarationError as error:
            raise InvalidInput(str(error)) from None
        if text is None:
            return None
        if len(text) > MAX_VALUE_BYTES:
            size = f"{len(text):,} bytes; at most {MAX_VALUE_BYTES:,}"
            raise InvalidInput(f"the value of {name!r} has {size}")
        known = self.states.get(name.partition("/")[0])
        if known is not None and known.codec.kind != "json":
            raise InvalidInput(f"{name!r} is not kept as JSON, so it can't be set from outside")
        fault = json_fault(text)
        if fault is not None:
            raise InvalidInput(f"the value of {name!r} is {fault}")
        try:
            if known is not None:
                known.codec.load(text)
        except Exception as error:  # the user's validator may raise anything
            raise InvalidInput(f"the value does not fit the state {name!r}: {explain(error)}") from error
        return encode_outcome(Resolution.of_json(text))


class VirtualObject(KeyedGroup):
    """A group of handlers that are called for a key, and the state of each key.

    For each key at most one invocation of the exclusive handlers runs at a time, first come first served
    over all instances, and also while it waits. Shared handlers run beside it, and only read the state.

    Raises:
        DeclarationError: The name is reserved or can't be used in a URL, or a limit is not positive.
    """

    def __init__(self, name: str, *, expire_after: timedelta | None = None, max_queue: int = 10_000) -> None:
        """Declare it.

        Args:
            name: In paths, and what `service` is elsewhere.
            expire_after: Delete the state of a key after this time without a write to it (at most a hundredth
                of it later, or a minute), while no exclusive invocation of the key is open; None: it is kept.
                An invocation that is delayed does not count.
            max_queue: How many exclusive invocations of a key may be open. Further calls are refused (code
                429); what handlers `send` is always taken, and what is delayed does not count.
        """
        super().__init__(name, what="object")
        if expire_after is not None and expire_after <= timedelta(0):
            raise DeclarationError(f"object {name!r}: expire_after must be positive, not {expire_after}")
        if max_queue < 1:
            raise DeclarationError(f"object {name!r}: max_queue must be at least 1, not {max_queue}")
        self.expire_after = expire_after
        self.max_queue = max_queue

    def handler(
        self,
        name: str | None = None,
        *,
        private: bool = False,
        topic: str | Subscription | None = None,
        schedule: Schedule | Sequence[Schedule] | None = None,
        version: int = 1,
    ) -> Callable[[ExclusiveFunction[P, R]], ExclusiveFunction[P, R]]:
        """Declare an async function `(ctx: ObjectContext)` or `(ctx: ObjectContext, input)` as exclusive.

        The arguments are those of `Service.handler`; a schedule has a key.
        """
        self._check_name(name)

        def declare(function: ExclusiveFunction[P, R]) -> ExclusiveFunction[P, R]:
            return self._declare(
                function,
                name,
                private=private,
                kind="exclusive",
                max_queue=self.max_queue,
                topic=topic,
                schedule=schedule,
                version=version,
            )

        return declare

    def shared(
        self,
        name: str | None = None,
        *,
        private: bool = False,
        topic: str | Subscription | None = None,
        schedule: Schedule | Sequence[Schedule] | None = None,
        version: int = 1,
    ) -> Callable[[SharedFunction[P, R]], SharedFunction[P, R]]:
        """Declare an async function `(ctx: SharedContext)` or `(ctx: SharedContext, input)` as shared.

        The arguments are those of `Service.handler`; a schedule has a key.
        """
        self._check_name(name)

        def declare(function: SharedFunction[P, R]) -> SharedFunction[P, R]:
            return self._declare(
                function,
                name,
                private=private,
                kind="shared",
                topic=topic,
                schedule=schedule,
                version=version,
            )

        return declare


class Workflow(KeyedGroup):
    """Something that runs once per key, with a state, promises, and handlers that reach it meanwhile.

    Its run is kept, and with it the key, its state and its promises, for as long as the service keeps ended
    invocations. To begin it again with the same input attaches to it; with another input that is refused. Its
    other handlers are signals and queries: each is an invocation of its own beside the run, which reads the
    state and settles promises. They are refused while the key has no run.

    Raises:
        DeclarationError: The name is reserved or can't be used in a URL.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, what="workflow")
        self.promises: dict[str, PromiseName[Any]] = {}

    def run(
        self,
        *,
        private: bool = False,
        topic: str | Subscription | None = None,
        schedule: Schedule | Sequence[Schedule] | None = None,
        version: int = 1,
    ) -> Callable[[ExclusiveFunction[P, R]], ExclusiveFunction[P, R]]:
        """Declare an async function `(ctx: ObjectContext)` or `(ctx: ObjectContext, input)` as the run.

        It is called `run` in paths: `POST /signups/{key}/run`.

        Args:
            private: Only other handlers can begin it.
            topic: A topic whose records begin it: the first one of a key does, later ones change nothing.
            schedule: When a run begins by itself; each has its own key, `key/tick`.
            version: As in `Service.handler`.

        Raises:
            DeclarationError: The workflow has a run of that version, the function can't be one, or
                parentheses are missing.
        """

        def declare(function: ExclusiveFunction[P, R]) -> ExclusiveFunction[P, R]:
            return self._declare(
                function,
                "run",
                private=private,
                kind="run",
                topic=topic,
                schedule=schedule,
                promises=self.promises,
                version=version,
            )

        return declare

    def handler(
        self, name: str | None = None, *, private: bool = False, version: int = 1
    ) -> Callable[[SharedFunction[P, R]], SharedFunction[P, R]]:
        """Declare an async function `(ctx: SharedContext)` or `(ctx: SharedContext, input)` as a handler.

        Args:
            name: The handler's name; by default the function's.
            private: Only other handlers can call it.
            version: As in `Service.handler`.

        Raises:
            DeclarationError: The name is taken or `run`, the function can't be a handler, or parentheses are
                missing.
        """
        self._check_name(name)

        def declare(function: SharedFunction[P, R]) -> SharedFunction[P, R]:
            if (name or getattr(function, "__name__", "")) == "run":
                raise DeclarationError(
                    f"workflow {self.name!r}: `run` is the name of its run; choose another"
                )
            return self._declare(
                function,
                name,
                private=private,
                kind="signal",
                promises=self.promises,
                version=version,
            )

        return declare

    def promise(self, name: str, type: type[T]) -> PromiseName[T]:
        """Declare a promise that each run has; `ctx.promise` takes what is returned.

        Args:
            name: Its name.
            type: The type of its value: anything that pydantic validates.

        Raises:
            DeclarationError: The name was declared before, or it or the type can't be used.
        """
        if name in self.promises:
            raise DeclarationError(f"workflow {self.name!r} declares the promise {name!r} twice")
        self.promises[name] = promises.declared(self.name, name, type)
        return self.promises[name]


class App:
    """A named set of services and virtual objects that share a store, a completions topic and a group.

    Attributes:
        name: Also the name of the consumer group, and the first part of the topics' names.
        codec: Seals values before they are stored.
    """

    def __init__(
        self, name: str, *, services: Sequence[HandlerGroup], codec: PayloadCodec | None = None
    ) -> None:
        """Collect the services and virtual objects.

        Args:
            name: As the attribute.
            services: At least one.
            codec: Seals what handlers, workers and callers have written before it is stored, such as a
                `KeyRing`; None: it is stored as it is.

        Raises:
            DeclarationError: Two services have the same name, or there are none.
        """
        self.name = _checked_name(name, "app")
        self.codec = codec
        self.services: dict[str, HandlerGroup] = {}
        for service in services:
            if service.name in self.services:
                raise DeclarationError(f"app {name!r} has two services called {service.name!r}")
            self.services[service.name] = service
        if not services:
            raise DeclarationError(f"app {name!r} has no services")
        for workflow in (each for each in services if isinstance(each, Workflow)):
            if "run" not in workflow.handlers:
                raise DeclarationError(
                    f"workflow {workflow.name!r} has no run: declare one with @{workflow.name}.run()"
                )
        self._found: dict[Callable[..., Any], Handler] = {}
        self.subscribed()
        self.scheduled()

    def all_handlers(self) -> list[Handler]:
        """All versions of the handlers of all services."""
        return [handler for service in self.services.values() for handler in service.all_handlers()]

    def subscribed(self) -> dict[str, Handler]:
        """The handlers that are called with the records of a topic, by the names of their subscriptions.

        Raises:
            DeclarationError: Two subscriptions have one name, a topic is one of the app's own, or it is given
                to a version that is not the highest.
        """
        found: dict[str, Handler] = {}
        own = (self.completions_topic, self.dead_letter_topic, self.verdicts_topic, self.revocations_topic)
        for handler in self.all_handlers():
            subscription = handler.subscription
            if subscription is None or subscription.name is None:
                continue
            where = f"handler {handler.service}/{handler.name}"
            highest = self.handler(handler.service, handler.name)
            if handler is not highest:
                raise DeclarationError(
                    f"{where}: version {handler.version} has a topic=, but its records begin invocations of "
                    f"version {highest.version}: move topic= there"
                )
            other = found.setdefault(subscription.name, handler)
            if other is not handler:
                raise DeclarationError(
                    f"{where}: the subscription {subscription.name!r} is that of "
                    f"{other.service}/{other.name}; give one of them another name="
                )
            if subscription.topic in own:
                raise DeclarationError(
                    f"{where}: {subscription.topic!r} is one of the app's own topics, which the service "
                    "reads or writes itself"
                )
        return found

    def scheduled(self) -> dict[str, DeclaredSchedule]:
        """The schedules of all handlers, by name.

        Raises:
            DeclarationError: Two schedules have one name, or one is of a version that is not the highest.
        """
        found: dict[str, DeclaredSchedule] = {}
        for handler in self.all_handlers():
            highest = self.handler(handler.service, handler.name)
            if handler.schedules and handler is not highest:
                raise DeclarationError(
                    f"handler {handler.service}/{handler.name}: version {handler.version} has a schedule=, "
                    f"but its ticks begin invocations of version {highest.version}: move schedule= there"
                )
            for each in handler.schedules:
                other = found.setdefault(each.name, each)
                if other is not each:
                    raise DeclarationError(
                        f"handler {handler.service}/{handler.name}: the schedule {each.name!r} is one of "
                        f"{other.handler.service}/{other.handler.name}; give one of them another name="
                    )
        return found

    @property
    def completions_topic(self) -> str:
        return f"{self.name}.completions"

    @property
    def dead_letter_topic(self) -> str:
        return f"{self.name}.completions.dlq"

    @property
    def verdicts_topic(self) -> str:
        return f"{self.name}.verdicts"

    @property
    def revocations_topic(self) -> str:
        return f"{self.name}.revocations"

    def service(self, name: str) -> HandlerGroup:
        """Find a service, object or workflow by name.

        Raises:
            NotFound: There is none; the message lists those that exist.
        """
        if name not in self.services:
            raise NotFound(f"no service {name!r}; there are: {', '.join(sorted(self.services))}")
        return self.services[name]

    def handler(self, service: str, name: str, version: int | None = None) -> Handler:
        """Find a handler by name.

        Args:
            service: The name of its service or object.
            name: Its own name.
            version: Its version; None: the highest, which is what is called.

        Raises:
            NotFound: There is none; the message lists those that exist.
        """
        of = self.services.get(service)
        if of is None:  # not always: each call of a handler comes here
            of = self.service(service)
        handlers = of.handlers
        if name not in handlers:
            known = f"it has: {', '.join(sorted(handlers))}" if handlers else of.none_yet
            raise NotFound(f"{of.what} {service!r} has no handler {name!r}; {known}")
        if version is None or version == handlers[name].version:
            return handlers[name]
        versions = of.versions[name]
        if version not in versions:
            word = "yet" if version > max(versions) else "any more"
            raise NotFound(
                f"{service}/{name} has no version {version} {word}, only {_listed(versions)}: deploy code "
                f"that declares it with version={version}, then resume the invocation"
            )
        return versions[version]

    def object(self, name: str) -> VirtualObject:
        """Find a virtual object by name.

        Raises:
            NotFound: There is none; the message lists those that exist.
        """
        found = self.services.get(name)
        if not isinstance(found, VirtualObject):
            named = ", ".join(each.name for each in self.objects) or "none"
            why = f"{name!r} is a workflow, whose keys have no queue" if isinstance(found, Workflow) else ""
            raise NotFound(f"{why or f'no object {name!r}'}; there are these objects: {named}")
        return found

    def keyed(self, name: str) -> KeyedGroup:
        """Find a virtual object or a workflow by name.

        Raises:
            NotFound: There is none; the message lists those that exist.
        """
        found = self.services.get(name)
        if not isinstance(found, KeyedGroup):
            known = sorted(each.name for each in self.services.values() if isinstance(each, KeyedGroup))
            raise NotFound(f"no object or workflow {name!r}; there are: {', '.join(known) or 'none'}")
        return found

    @property
    def objects(self) -> list[VirtualObject]:
        """All virtual objects, by name."""
        found = [each for each in self.services.values() if isinstance(each, VirtualObject)]
        return sorted(found, key=lambda each: each.name)

    @property
    def subscriptions(self) -> dict[str, Subscription]:
        """What `subscribed` handlers subscribe to, by the names of their subscriptions."""
        found = ((name, handler.subscription) for name, handler in self.subscribed().items())
        return {name: subscription for name, subscription in found if subscription is not None}

    @property
    def versions(self) -> dict[HandlerName, Collection[int]]:
        """The versions of each handler, by its service and name."""
        return {
            (service.name, name): versions.keys()
            for service in self.services.values()
            for name, versions in service.versions.items()
        }

    @property
    def learned(self) -> int:
        """How often the handlers of remote services have been read."""
        return sum(service.learned for service in self.services.values())

    @property
    def targets(self) -> list[str]:
        """All handlers, as `service/handler`, and `service/handler@2` for a version other than the first."""
        return [target(each.service, each.name, each.version) for each in self.all_handlers()]

    def find(self, function: Callable[..., Any]) -> Handler:
        """Find what a call of this function begins: the highest version of the handler that it is.

        Raises:
            NotFound: No service of this app declares it.
        """
        try:
            known = self._found[function]
        except (KeyError, TypeError):
            pass
        else:  # a remote service may have learned of another version
            if self.services[known.service].handlers.get(known.name) is known:
                return known
        declared = self.declared(function)
        found = self._found[function] = self.handler(declared.service, declared.name)
        return found

    def declared(self, function: Callable[..., Any]) -> Handler:
        """Find the handler that this function was declared as, of whichever version.

        Raises:
            NotFound: No service of this app declares it.
        """
        for service, handler in declarations(function):
            if self.services.get(service.name) is service:
                return handler
        for group in groups(function):
            if not group.handlers:
                raise NotFound(f"the handlers of {group.name!r} are not known: {group.none_yet}")
        raise NotFound(f"{excerpt(function)} is not a handler of app {self.name!r}")


def _listed(versions: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(versions)))


def _checked_name(name: str, what: str, *, most: int = 100) -> str:
    if not _NAME.fullmatch(name) or len(name) > most:
        raise DeclarationError(
            f"{what} {name!r}: a name has letters, digits, '.', '_' and '-', begins with a letter or digit, "
            f"and has at most {most} characters"
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

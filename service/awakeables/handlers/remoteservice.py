"""The declaration of a service whose handlers run elsewhere."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Protocol, TypeVar, overload
from urllib.parse import urlsplit

from awakeables.core.texts import excerpt
from awakeables.errors import DeclarationError
from awakeables.handlers.context import Context
from awakeables.handlers.service import Handler, HandlerGroup

T = TypeVar("T")
R = TypeVar("R")

MAX_BYTES = 32 * 1024 * 1024
"""The most that a request to a function or its answer may have, unless less is said."""


_LAMBDA = re.compile(r"arn:aws[a-z-]*:lambda:[a-z0-9-]+:\d{12}:function:[A-Za-z0-9_-]+(?::[A-Za-z0-9$_-]+)?")


class RequestAuth(Protocol):
    """Authenticates requests to a function, beside the service's own signature."""

    async def headers(self, method: str, url: str, body: bytes) -> Mapping[str, str]:
        """The headers to send with a request.

        Raises:
            AuthFailed: There are none.
        """
        ...


class RemoteService(HandlerGroup):
    """A service whose handlers run elsewhere: a function that is reached by URL.

    While its handlers wait, nothing of it runs. It is invoked when there is something to do, with the whole
    journal, and answers with how far the handler came. Which handlers it has, with their inputs and results,
    is read from the function when the service starts.

    Attributes:
        url: Where the function is; or the ARN of an AWS Lambda function, which is invoked by Lambda's Invoke.
        auth: Authenticates requests where the platform wants that; None: they are only signed.
        timeout: How long a request may take at most. One that takes longer is like a crash of the process:
            what `ctx.run` executed may be executed again.
        max_concurrent: How many requests may be under way at the same time, from each instance.
        max_request_bytes: How large a request may be. An invocation whose journal has become too large for it
            is paused.
        named_handlers: What `named` has returned, by name.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str,
        auth: RequestAuth | None = None,
        timeout: timedelta = timedelta(minutes=1),
        max_concurrent: int = 100,
        max_request_bytes: int = MAX_BYTES,
    ) -> None:
        """Declare the service.

        Args:
            name: The name that the service has in the function's app.
            url: As the attribute: `http://…`, `https://…` or `arn:aws:lambda:…:function:…`.
            auth: As the attribute: `awakeables.remote.BearerToken`, `awakeables.remote.AwsIam`, or what has
                the same method.
            timeout: As the attribute.
            max_concurrent: As the attribute.
            max_request_bytes: As the attribute.

        Raises:
            DeclarationError: The name is reserved or can't be used in a URL, or an argument has another form.
        """
        super().__init__(name, what="service")
        where = f"service {name!r}"
        if not isinstance(url, str) or not (_is_http(url) or is_lambda(url)):
            raise DeclarationError(
                f"{where}: url= is like https://shop.example.com/orders, or a Lambda function's ARN, not "
                f"{excerpt(url)}"
            )
        if auth is not None and is_lambda(url):
            raise DeclarationError(
                f"{where}: Lambda's Invoke is always signed with AWS' credentials: leave auth= out"
            )
        if auth is not None and not callable(getattr(auth, "headers", None)):
            raise DeclarationError(
                f"{where}: auth= is BearerToken(…) or AwsIam() of awakeables.remote, not "
                f"{excerpt(type(auth).__name__)}"
            )
        if not isinstance(timeout, timedelta) or timeout <= timedelta():
            raise DeclarationError(f"{where}: timeout= is a timedelta above 0, not {excerpt(timeout)}")
        for option, number in (("max_concurrent", max_concurrent), ("max_request_bytes", max_request_bytes)):
            if not isinstance(number, int) or number < 1:
                raise DeclarationError(
                    f"{where}: {option}= is a whole number from 1 on, not {excerpt(number)}"
                )
        self.url = url
        self.auth = auth
        self.timeout = timeout
        self.max_concurrent = max_concurrent
        self.max_request_bytes = max_request_bytes
        self.named_handlers: Mapping[str, Callable[..., Awaitable[Any]]] = {}

    @overload
    def named(self, name: str, *, output: type[R]) -> Callable[[Context], Awaitable[R]]: ...
    @overload
    def named(self, name: str, input: type[T], output: type[R]) -> Callable[[Context, T], Awaitable[R]]: ...

    def named(self, name: str, input: Any = None, output: Any = Any) -> Callable[..., Awaitable[Any]]:
        """Refer to one of its handlers, for `ctx.call` and `ctx.send` by handlers that run here.

        Args:
            name: The handler's name. The service does not start if the function has none of this name.
            input: The type of its input, for type checkers; the function's own is what counts.
            output: The type that its result is read as.

        Raises:
            DeclarationError: The name was referred to before.
        """
        if name in self.named_handlers:
            raise DeclarationError(f"service {self.name!r} refers to the handler {name!r} twice")
        function = self.stand_in(name, output)
        self.named_handlers = {**self.named_handlers, name: function}
        self._is_of(function)
        return function

    def stand_in(self, name: str, output: Any = Any) -> Callable[..., Awaitable[Any]]:
        """A function in the place of a handler that runs elsewhere."""

        async def elsewhere(ctx: Any, given: Any = None) -> Any:
            raise AssertionError(f"{self.name}/{name} runs elsewhere: tests need functions=[…]")

        elsewhere.__name__ = name
        elsewhere.__annotations__ = {"return": output}
        return elsewhere

    @property
    def none_yet(self) -> str:
        """As of every group."""
        return f"which it has is read from {self.url} when the service starts; tests need functions=[…]"

    def learn(self, handlers: Iterable[Handler]) -> None:
        """Have these handlers from now on, and no others.

        Raises:
            DeclarationError: Two have one name and version; it has those of before.
        """
        before = self.handlers, self.versions
        self.handlers, self.versions = {}, {}
        try:
            for handler in handlers:
                self.add(handler)
        except DeclarationError:
            self.handlers, self.versions = before
            raise
        self.learned += 1


def is_lambda(url: str) -> bool:
    """Whether it is the ARN of a Lambda function, with or without a version or an alias."""
    return _LAMBDA.fullmatch(url) is not None


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:  # no such port
        return False
    is_clean = url.isascii() and url.isprintable() and " " not in url and not parts.fragment
    return is_whole and is_clean and parts.scheme in ("http", "https")

"""How requests to a function are authenticated where a platform asks for more than our signature."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from awakeables.core.texts import described
from awakeables.errors import AwakeablesError, DeclarationError
from awakeables.handlers.calls import Raised, call

TokenSource: TypeAlias = Callable[[], str | Awaitable[str]]


class AuthFailed(AwakeablesError):
    """A request can't be authenticated: there is no token, or there are no credentials."""


class BearerToken:
    """Sends a bearer token with each request: `authorization: Bearer …`."""

    def __init__(self, token: str | TokenSource) -> None:
        """Send this token, or the one that a function returns.

        Args:
            token: The token, or a function that returns the current one, for tokens that expire. It is called
                for each request, in a thread if it is not a coroutine function, so let it keep what it has.

        Raises:
            DeclarationError: It is neither, or characters of it can't be in a header.
        """
        if isinstance(token, str):
            if not _can_be_sent(token):
                raise DeclarationError(
                    "the token of BearerToken is empty, or has characters that no header can have: strip the "
                    "end of the line if it was read from a file"
                )
        elif not callable(token):
            raise DeclarationError("BearerToken takes a token, or a function that returns one")
        self._token = token

    async def headers(self, method: str, url: str, body: bytes) -> Mapping[str, str]:
        """The header of a request.

        Raises:
            AuthFailed: There is no token.
        """
        if isinstance(self._token, str):
            return {"authorization": f"Bearer {self._token}"}
        token = await call(self._token, executor=None)
        if isinstance(token, Raised):
            raise AuthFailed(f"there is no token: {described(token.error)}") from token.error
        if not isinstance(token, str) or not _can_be_sent(token):
            raise AuthFailed("there is no token: what was returned is none, or can't be in a header")
        return {"authorization": f"Bearer {token}"}


def _can_be_sent(token: str) -> bool:
    return bool(token) and token.isascii() and token.isprintable() and token == token.strip()

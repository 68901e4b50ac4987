"""Access control: checks the host that a request is for, the site that sent it, and its token."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import urlsplit

from awakeables.core.acts import begun_by
from awakeables.core.invocations import Invocation
from awakeables.core.texts import excerpt
from awakeables.web.framing import host_name
from awakeables.web.problems import Problem
from awakeables.web.request import HttpRequest
from awakeables.web.tokenfile import Holder, Scope
from awakeables.web.tokens import Tokens

REALM = 'Bearer realm="awakeables"'


class Guard:
    """Checks every request before its body is read.

    Attributes:
        anonymous: Who a request without a token is said to come from: `loopback` or `network`.
    """

    def __init__(
        self,
        tokens: Tokens | None,
        names: Collection[str] | None,
        *,
        exposed: bool = False,
        seals: bool = False,
    ) -> None:
        """Set up the checks.

        Args:
            tokens: The known tokens; None lets everybody in.
            names: Host names that are accepted in addition to loopback names; None accepts any.
            exposed: Whether other machines can reach the service.
            seals: Whether the app seals values, which then need the scope `payloads` to be seen.
        """
        self._sees: Scope = "payloads" if seals else "read"
        self.anonymous = "network" if exposed else "loopback"
        self._tokens = tokens
        self._exposed = exposed
        self._names = None if names is None else frozenset(name.lower() for name in names)
        self._is_ours = functools.lru_cache(maxsize=64)(self._answers_to)

    @property
    def wants_tokens(self) -> bool:
        """Whether requests need a token."""
        return self._tokens is not None

    def check(
        self,
        method: str,
        headers: Mapping[bytes, bytes],
        names: Sequence[str],
        scope: Scope | None,
        *,
        own: bool = False,
    ) -> Holder | None:
        """Admit a request; return the holder of its token, or None if no token is needed.

        Args:
            method: The request method.
            headers: The headers by name, in lower case.
            names: The values of the variable path segments.
            scope: The scope that the token needs; None if no token is needed.
            own: Also admit holders that can have invocations of their own; the route then checks
                that the invocation is theirs (`check_own`).

        Raises:
            Problem: 421: the request is for another host. 403: it comes from another site, or its
                token lacks the scope. 401: it has no known token.
        """
        if self._names is not None and not self._is_ours(headers.get(b"host")):
            raise _misdirected(headers.get(b"host", b"").decode("latin-1"))
        if method != "GET" and (b"sec-fetch-site" in headers or b"origin" in headers):
            _check_origin(headers)
        if self._tokens is None:
            return None
        self._tokens.refresh()
        if scope is None:
            return None
        holder = _known_holder(self._tokens, headers)
        if not (own and holder.calls):
            _check_scope(holder, scope, names)
        return holder

    def check_own(self, request: HttpRequest, row: Invocation) -> None:
        """Admit a token that may see results, or the one that began the invocation.

        Raises:
            Problem: 403: the token is neither.
        """
        holder = request.holder
        if holder is not None and not _began(holder, row):
            _check_scope(holder, "read", request.names)
            _check_scope(holder, self._sees, request.names)

    def hides_payloads(self, holder: Holder | None) -> bool:
        """Whether the holder of a token must not see what the app seals."""
        return self._sees == "payloads" and holder is not None and not holder.may("payloads")

    def check_payloads(self, request: HttpRequest) -> None:
        """Admit a token that may see what the app seals, if it does.

        Raises:
            Problem: 403: the token lacks the scope `payloads`.
        """
        if request.holder is not None and request.hides_payloads:
            _check_scope(request.holder, "payloads", request.names)

    def check_key(self, request: HttpRequest, row: Invocation) -> None:
        """The same check for an invocation that a call found by its idempotency key.

        Raises:
            Problem: 403: the key belongs to a call with another token.
        """
        holder = request.holder
        if holder is None or _began(holder, row):
            return
        for scope in ("read", self._sees):
            if not holder.may(scope):
                raise _forbidden(
                    scope,
                    f"it was begun by another caller than {holder.name!r}: use another key, "
                    f"or a token with the scope {scope!r}",
                )

    def shows_details(self, request: HttpRequest) -> bool:
        """Whether this request, which needs no token, may see details that require the scope `read`."""
        if self._tokens is None:
            return not self._exposed
        holder = _holder(self._tokens, request.headers)
        return holder is not None and holder.may("read")

    def _answers_to(self, host: bytes | None) -> bool:
        """Prevent DNS rebinding: without tokens, a web page could point its own name at our address.

        A request without a host is HTTP/1.0 and does not come from a browser.
        """
        assert self._names is not None
        if host is None:
            return True
        name = host_name(host.decode("latin-1"))
        return name is not None and (name in self._names or _is_loopback(name))


def _token(headers: Mapping[bytes, bytes]) -> bytes | None:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return (token.strip() or None) if scheme.lower() == b"bearer" else None


def _holder(tokens: Tokens, headers: Mapping[bytes, bytes]) -> Holder | None:
    token = _token(headers)
    return None if token is None else tokens.holder(token)


def _known_holder(tokens: Tokens, headers: Mapping[bytes, bytes]) -> Holder:
    if _token(headers) is None:
        raise _unauthorized("this needs a token; send it as `Authorization: Bearer …`", REALM)
    holder = _holder(tokens, headers)
    if holder is None:
        raise _unauthorized(
            "the token is unknown; it may have been revoked", f'{REALM}, error="invalid_token"'
        )
    return holder


def _began(holder: Holder, row: Invocation) -> bool:
    """Whether this invocation was begun with the holder's token."""
    return begun_by(row.acts) == holder.name and holder.may("call", row.service)


def _check_scope(holder: Holder, scope: Scope, names: Sequence[str]) -> None:
    service = names[0] if scope == "call" else None
    if not holder.may(scope, service):
        raise _forbidden(
            scope, f"this needs the scope {scope!r}; {holder.name!r} has {', '.join(sorted(holder.scopes))}"
        )


def _forbidden(scope: Scope, detail: str) -> Problem:
    return Problem(
        403,
        "insufficient-scope",
        "The token does not allow this",
        detail,
        members={"scope": scope},
        headers=((b"www-authenticate", f'{REALM}, error="insufficient_scope", scope="{scope}"'.encode()),),
    )


def _check_origin(headers: Mapping[bytes, bytes]) -> None:
    """Keep web pages of other sites from calling or completing anything through a visitor's browser."""
    site = headers.get(b"sec-fetch-site")
    if site is None:
        same = _is_host(headers.get(b"origin", b""), headers.get(b"host"))
    else:
        same = site in (b"same-origin", b"none")
    if not same:
        raise Problem(
            403, "cross-site", "The request comes from another site", "a web page sent this request"
        )


def _is_host(origin: bytes, host: bytes | None) -> bool:
    try:
        asked = urlsplit(origin.decode("latin-1")).netloc
    except ValueError:
        return False
    return host is not None and asked.lower() == host.decode("latin-1").lower()


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _misdirected(host: str) -> Problem:
    return Problem(
        421,
        "misdirected",
        "The request is for another host",
        f"{excerpt(host)} is not a name of this service: add it to AWAKEABLES_ALLOWED_HOSTS or use localhost",
    )


def _unauthorized(detail: str, challenge: str) -> Problem:
    headers = ((b"www-authenticate", challenge.encode()),)
    return Problem(401, "unauthorized", "A token is needed", detail, headers=headers)

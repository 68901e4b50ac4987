"""The tokens file: a TOML table per token, with the SHA-256 of the token and its scopes.

    [orders-frontend]
    sha256 = "…64 hex digits…"          # or a list of two, while clients switch from one to the other
    scopes = ["call:orders"]

The file holds no tokens, so it is not secret; but anyone who can write it can grant access.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

import msgspec
from msgspec import Meta

from awakeables.core.texts import excerpt
from awakeables.errors import OperatorError

Scope = Literal["call", "complete", "metrics", "operate", "payloads", "read"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

INCLUDES: Final[Mapping[Scope, Scope]] = {"metrics": "read"}
"""Scopes that another one includes: `read` includes `metrics`."""

CALL_ONE: Final = "call:"
"""The prefix of a scope that allows calls to one service."""

LONGEST_NAME: Final = 64
RESERVED_NAMES: Final = ("loopback", "network")
"""The values of `by` in the log where no token is needed."""

_FORM: Final = (
    "A token is a table [name] with sha256 (64 hexadecimal digits, or a list of such) and scopes "
    f"(a list of {', '.join(SCOPES)}, {CALL_ONE}SERVICE)"
)
_Digest = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}\Z")]
_Scope = Annotated[str, Meta(pattern=rf"^({'|'.join(SCOPES)}|{CALL_ONE}[A-Za-z0-9][A-Za-z0-9._-]*)\Z")]


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    sha256: _Digest | Annotated[list[_Digest], Meta(min_length=1)]
    scopes: Annotated[list[_Scope], Meta(min_length=1)]


class TokensRefused(OperatorError):
    """A tokens file that can't be read or is invalid."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of a token, and what it allows.

    Attributes:
        name: The name of the table in the file.
        digests: The SHA-256 of each token with this name.
        scopes: At least one: a `Scope`, or `call:` and the name of a service.
    """

    name: str
    digests: tuple[bytes, ...]
    scopes: frozenset[str]

    def may(self, scope: Scope, service: str | None = None) -> bool:
        """Whether the token has this scope; for a call, `service` is the one that is called."""
        if scope in self.scopes or INCLUDES.get(scope) in self.scopes:
            return True
        return scope == "call" and service is not None and f"{CALL_ONE}{service}" in self.scopes

    @property
    def calls(self) -> bool:
        """Whether the token allows any calls, and so can have invocations of its own."""
        return any(scope == "call" or scope.startswith(CALL_ONE) for scope in self.scopes)


def parse_tokens(content: bytes) -> tuple[Holder, ...]:
    """Parse a tokens file.

    Raises:
        TokensRefused: It is not TOML, has no token, or an entry has a missing, unknown, invalid or
            duplicate field; the message names the line or the entry.
    """
    try:
        entries = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TokensRefused(f"it is not TOML: {error}") from None
    holders = tuple(_holder(name, entry) for name, entry in entries.items())
    if not holders:
        raise TokensRefused("it has no tokens; to let everybody in, unset AWAKEABLES_TOKENS_FILE")
    names: dict[bytes, str] = {}
    for holder in holders:
        for digest in holder.digests:
            if digest in names:
                raise TokensRefused(f"[{names[digest]}] and [{holder.name}] have the same token")
            names[digest] = holder.name
    return holders


def _holder(name: str, given: object) -> Holder:
    if not (0 < len(name) <= LONGEST_NAME and name.isprintable()) or name in RESERVED_NAMES:
        raise TokensRefused(
            f"[{excerpt(name)}] can't be a token's name: a name has 1 to {LONGEST_NAME} visible characters "
            f"and is not one of {', '.join(RESERVED_NAMES)}, which the log uses"
        )
    try:
        entry = msgspec.convert(given, _Entry)
    except msgspec.ValidationError as error:
        raise TokensRefused(f"[{name}] is not a token: {error}. {_FORM}") from None
    digests = [entry.sha256] if isinstance(entry.sha256, str) else entry.sha256
    return Holder(name=name, digests=tuple(map(bytes.fromhex, digests)), scopes=frozenset(entry.scopes))

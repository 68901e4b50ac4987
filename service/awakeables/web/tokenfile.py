"""The tokens file: a TOML table per token, with the SHA-256 of the token and its scopes.

    [orders-frontend]
    sha256 = "…64 hex digits…"          # or a list of two, while clients move from one to the other
    scopes = ["call:orders"]

The token itself is not in it, so the file is no secret; but who can write it can let anybody in.
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

Scope = Literal["call", "complete", "metrics", "operate", "read"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

INCLUDES: Final[Mapping[Scope, Scope]] = {"metrics": "read"}
"""Scopes that another one includes: `read` covers the metrics."""

CALL_ONE: Final = "call:"
"""The prefix of a scope that allows the calls of one service."""

LONGEST_NAME: Final = 64
NOBODYS_NAMES: Final = ("loopback", "network")
"""Reserved: `by` in the log where no token is needed."""

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
    """A tokens file that can't be read, or whose meaning is not clear."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a token, and what it allows.

    Attributes:
        name: The name of its table in the file.
        digests: The SHA-256 of each token of this name.
        scopes: At least one: a `Scope`, or `call:` and the name of a service.
    """

    name: str
    digests: tuple[bytes, ...]
    scopes: frozenset[str]

    def may(self, scope: Scope, service: str | None = None) -> bool:
        """Does the token allow this? `service` is the one that is called."""
        if scope in self.scopes or INCLUDES.get(scope) in self.scopes:
            return True
        return scope == "call" and service is not None and f"{CALL_ONE}{service}" in self.scopes

    @property
    def calls(self) -> bool:
        """Does it allow any calls? Then it may have invocations of its own."""
        return any(scope == "call" or scope.startswith(CALL_ONE) for scope in self.scopes)


def parse_tokens(content: bytes) -> tuple[Holder, ...]:
    """Read a tokens file.

    Raises:
        TokensRefused: It is not TOML, has no token, or an entry has a field that is missing, unknown,
            wrong or used twice; the message names the line or the entry.
    """
    try:
        entries = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TokensRefused(f"it is no TOML: {error}") from None
    holders = tuple(_holder(name, entry) for name, entry in entries.items())
    if not holders:
        raise TokensRefused("it has no tokens; to let everybody in, leave AWAKEABLES_TOKENS_FILE out")
    names: dict[bytes, str] = {}
    for holder in holders:
        for digest in holder.digests:
            if digest in names:
                raise TokensRefused(f"[{names[digest]}] and [{holder.name}] have the same token")
            names[digest] = holder.name
    return holders


def _holder(name: str, given: object) -> Holder:
    if not (0 < len(name) <= LONGEST_NAME and name.isprintable()) or name in NOBODYS_NAMES:
        raise TokensRefused(
            f"[{excerpt(name)}] can't be a token's name, which says who did what: it has 1 to "
            f"{LONGEST_NAME} visible characters, and is none of {', '.join(NOBODYS_NAMES)}"
        )
    try:
        entry = msgspec.convert(given, _Entry)
    except msgspec.ValidationError as error:
        raise TokensRefused(f"[{name}] is not a token: {error}. {_FORM}") from None
    digests = [entry.sha256] if isinstance(entry.sha256, str) else entry.sha256
    return Holder(name=name, digests=tuple(map(bytes.fromhex, digests)), scopes=frozenset(entry.scopes))

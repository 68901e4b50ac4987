"""The tokens file: a TOML table per token, with the SHA-256 of the token and its scopes.

    [orders-frontend]
    sha256 = "…64 hex digits…"          # two of them, in a list, while the one takes over from the other
    scopes = ["call:orders"]

The token itself stands nowhere in it, so the file is no secret; only whoever may write it must
be trusted.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from awakeables.core.texts import excerpt
from awakeables.errors import OperatorError

Scope = Literal["call", "complete", "metrics", "operate", "read"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

INCLUDES: Final[Mapping[Scope, Scope]] = {"metrics": "read"}
"""A scope that another one includes: who may read all may read the metrics."""

CALL_ONE: Final = "call:"
"""A scope that begins so is `call` for one service alone."""

LONGEST_NAME: Final = 64
NOBODYS_NAMES: Final = ("loopback", "network")
"""What stands for a name where no token is asked for."""

_KEYS: Final = ("sha256", "scopes")
_OF_NOTHING: Final = hashlib.sha256(b"").hexdigest()
_is_call_of_one = re.compile(rf"{CALL_ONE}[A-Za-z0-9][A-Za-z0-9._-]*").fullmatch
_is_digest = re.compile("[0-9a-fA-F]{64}").fullmatch


class TokensRefused(OperatorError):
    """A tokens file that can't be read, or that could be understood in two ways."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a token, and what it is good for.

    Attributes:
        name: What the file calls it.
        digests: The SHA-256 of each token that goes by this name.
        scopes: At least one: a `Scope`, or `call:` and the name of a service.
    """

    name: str
    digests: tuple[bytes, ...]
    scopes: frozenset[str]

    def may(self, scope: Scope, service: str | None = None) -> bool:
        """Is the token good for this; `service`: for calls, of which one it is."""
        if scope in self.scopes or INCLUDES.get(scope) in self.scopes:
            return True
        return scope == "call" and service is not None and f"{CALL_ONE}{service}" in self.scopes

    @property
    def calls(self) -> bool:
        """May it call anything, and so have invocations of its own?"""
        return any(scope == "call" or scope.startswith(CALL_ONE) for scope in self.scopes)


def parse_tokens(content: bytes) -> tuple[Holder, ...]:
    """Read a tokens file.

    Raises:
        TokensRefused: No TOML, no token in it, or an entry with anything missing, unknown,
            misspelled or said twice; names the line or the entry.
    """
    try:
        entries = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TokensRefused(f"it is no TOML: {error}") from None
    holders = tuple(_holder(name, entry) for name, entry in entries.items())
    if not holders:
        raise TokensRefused("it has no tokens; to let everybody in, leave the setting away")
    names: dict[bytes, str] = {}
    for holder in holders:
        for digest in holder.digests:
            if digest in names:
                raise TokensRefused(f"[{names[digest]}] and [{holder.name}] have the same token")
            names[digest] = holder.name
    return holders


def _holder(name: str, entry: object) -> Holder:
    if not isinstance(entry, Mapping):
        raise TokensRefused(f"{name} stands outside a table; each token is a table: [name], sha256, scopes")
    if "token" in entry:
        raise TokensRefused(f"[{name}] has the token itself; put its SHA-256 there: sha256 = …")
    if not (0 < len(name) <= LONGEST_NAME and name.isprintable()) or name in NOBODYS_NAMES:
        raise TokensRefused(
            f"[{excerpt(name)}] can't be a token's name, which says who did what: "
            f"it has 1 to {LONGEST_NAME} visible characters, and is none of {', '.join(NOBODYS_NAMES)}"
        )
    for key in entry:
        if key not in _KEYS:
            raise TokensRefused(f"[{name}] has an unknown key {key!r}; {_nearest(key, _KEYS)}")
    return Holder(name=name, digests=_digests(name, entry), scopes=_scopes(name, entry))


def _digests(name: str, entry: Mapping[str, Any]) -> tuple[bytes, ...]:
    given = entry.get("sha256")
    texts = given if isinstance(given, list) and given else [given]
    return tuple(_digest(name, text) for text in texts)


def _digest(name: str, text: object) -> bytes:
    if not isinstance(text, str) or not _is_digest(text):
        raise TokensRefused(f"[{name}] needs sha256: the SHA-256 of its token, 64 hexadecimal digits")
    if text.lower() == _OF_NOTHING:
        raise TokensRefused(f"[{name}] has the SHA-256 of an empty text; was the variable set?")
    return bytes.fromhex(text)


def _scopes(name: str, entry: Mapping[str, Any]) -> frozenset[str]:
    given = entry.get("scopes")
    if not isinstance(given, list) or not given:
        raise TokensRefused(f"[{name}] needs scopes: a list of {', '.join(SCOPES)}")
    for scope in given:
        if scope not in SCOPES and not (isinstance(scope, str) and _is_call_of_one(scope)):
            raise TokensRefused(f"[{name}] has an unknown scope {scope!r}; {_nearest(str(scope), SCOPES)}")
    return frozenset(given)


def _nearest(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"

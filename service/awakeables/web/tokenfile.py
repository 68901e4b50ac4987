"""The tokens file: a TOML table per token, with the SHA-256 of the token and its scopes.

    [orders-frontend]
    sha256 = "…64 hex digits…"
    scopes = ["call", "read"]

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

from awakeables.errors import OperatorError

Scope = Literal["call", "complete", "operate", "read"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

_KEYS: Final = ("sha256", "scopes")
_OF_NOTHING: Final = hashlib.sha256(b"").hexdigest()
_is_digest = re.compile("[0-9a-fA-F]{64}").fullmatch


class TokensRefused(OperatorError):
    """A tokens file that can't be read, or that could be understood in two ways."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a token, and what it is good for.

    Attributes:
        name: What the file calls it.
        digest: The SHA-256 of the token.
        scopes: At least one.
    """

    name: str
    digest: bytes
    scopes: frozenset[Scope]


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
        if holder.digest in names:
            raise TokensRefused(f"[{names[holder.digest]}] and [{holder.name}] have the same token")
        names[holder.digest] = holder.name
    return holders


def _holder(name: str, entry: object) -> Holder:
    if not isinstance(entry, Mapping):
        raise TokensRefused(f"{name} stands outside a table; each token is a table: [name], sha256, scopes")
    if "token" in entry:
        raise TokensRefused(f"[{name}] has the token itself; put its SHA-256 there: sha256 = …")
    for key in entry:
        if key not in _KEYS:
            raise TokensRefused(f"[{name}] has an unknown key {key!r}; {_nearest(key, _KEYS)}")
    return Holder(name=name, digest=_digest(name, entry), scopes=_scopes(name, entry))


def _digest(name: str, entry: Mapping[str, Any]) -> bytes:
    text = entry.get("sha256")
    if not isinstance(text, str) or not _is_digest(text):
        raise TokensRefused(f"[{name}] needs sha256: the SHA-256 of its token, 64 hexadecimal digits")
    if text.lower() == _OF_NOTHING:
        raise TokensRefused(f"[{name}] has the SHA-256 of an empty text; was the variable set?")
    return bytes.fromhex(text)


def _scopes(name: str, entry: Mapping[str, Any]) -> frozenset[Scope]:
    given = entry.get("scopes")
    if not isinstance(given, list) or not given:
        raise TokensRefused(f"[{name}] needs scopes: a list of {', '.join(SCOPES)}")
    for scope in given:
        if scope not in SCOPES:
            raise TokensRefused(f"[{name}] has an unknown scope {scope!r}; {_nearest(str(scope), SCOPES)}")
    return frozenset(given)


def _nearest(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"

"""IDs: URL-safe, sorted by time, with a checksum.

An ID is a prefix, `prom_1` (awakeable), `inv_1` (invocation), `evt_1` (effect), `dlq_1` (dead letter)
or `own_1` (an instance that owns invocations), then 26 characters of Crockford's base32 (48 bits of
milliseconds since 1970, 80 random bits), then 7 characters of CRC-32 over everything before them.
IDs sort by time of issue, which keeps inserts at the right edge of a B-tree. The CRC-32 detects every
change within four adjacent characters, so a mistyped character or a swapped pair is reported as a
malformed ID, not as an unknown one.

Rows of earlier releases have owners with the prefix `evt_1`: an owner is compared as text and never parsed.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from typing import Literal, TypeGuard

from awakeables.core.texts import excerpt
from awakeables.errors import MalformedId

IdKind = Literal["prom", "inv", "evt", "dlq", "own"]

EFFECT_KINDS: tuple[IdKind, ...] = ("evt", "dlq")
"""An effect has an ID of its own, or that of the dead letter that it is a copy of."""

RANDOM_BYTES = 10
"""Entropy of an ID: 80 bits, so a billion IDs in one millisecond collide with p < 10⁻⁶."""

ENTROPY_BYTES = 400 * RANDOM_BYTES
"""Entropy that is read at once, to save a call per ID."""

SEED_BYTES = 16

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_TO_DIGITS = {code: "!" for code in range(128)} | {
    ord(symbol): digit for symbol, digit in zip(_ALPHABET, _DIGITS, strict=True)
}
"""Maps the symbols to the digits that `int` takes, any other ASCII character to one that it rejects."""
_BODY_CHARS = 26
_CHANCE_CHARS = 16
_CHECK_CHARS = 7
_CHECK_MASK = (1 << 5 * _CHECK_CHARS) - 1
_AFTER_TIME_BITS = 5 * (_CHANCE_CHARS + _CHECK_CHARS)
_NAMES: dict[str, str] = {
    "prom": "an awakeable ID",
    "inv": "an invocation ID",
    "evt": "an event ID",
    "dlq": "a dead letter's ID",
    "own": "an owner ID",
}


def first_id(kind: IdKind, at_ms: int) -> str:
    """The text that sorts before every ID of this kind issued from `at_ms` on, and after all older ones."""
    return f"{kind}_1{_instant(at_ms)}"


def _instant(at_ms: int) -> str:
    """The characters that all IDs of one millisecond begin with."""
    pairs = _PAIRS
    return (
        f"{pairs[at_ms >> 40]}{pairs[at_ms >> 30 & 1023]}{pairs[at_ms >> 20 & 1023]}"
        f"{pairs[at_ms >> 10 & 1023]}{pairs[at_ms & 1023]}"
    )


class Ids:
    """Issues IDs for one process.

    Event IDs also sort in order of issue within one millisecond: each is the one before plus one, and
    the outbox publishes in their order. An awakeable's ID is a bearer token, so all of its random bits
    are new.
    """

    def __init__(self, now_ms: Callable[[], int], entropy: Callable[[int], bytes]) -> None:
        """Issue IDs by this clock, of random bytes that are read in blocks.

        In a forked child, `forget_entropy` must be called: it has a copy of the block that is in use.
        """
        self._now_ms = now_ms
        self._entropy = entropy
        self._numbers: list[int] = []
        self._last_event = (-1, 0)
        self._instant = (0, _instant(0))

    def new(self, kind: IdKind) -> str:
        """A new ID of this kind."""
        # All in one function, two symbols at a time: every awakeable, effect and invocation needs an ID.
        at_ms = self._now_ms()
        event_ms, event_number = self._last_event
        if kind == "evt" and at_ms <= event_ms:
            at_ms, number = event_ms, event_number + 1
        else:
            if not self._numbers:
                block = self._entropy(ENTROPY_BYTES)
                places = range(0, ENTROPY_BYTES, RANDOM_BYTES)
                self._numbers = [int.from_bytes(block[at : at + RANDOM_BYTES], "big") for at in places]
            number = self._numbers.pop()
            if kind == "evt":
                number >>= 1  # which leaves room to count up from it
        if kind == "evt":
            self._last_event = (at_ms, number)
        if at_ms != self._instant[0]:
            self._instant = (at_ms, _instant(at_ms))
        pairs = _PAIRS
        text = (
            f"{kind}_1{self._instant[1]}{pairs[number >> 70]}{pairs[number >> 60 & 1023]}"
            f"{pairs[number >> 50 & 1023]}{pairs[number >> 40 & 1023]}{pairs[number >> 30 & 1023]}"
            f"{pairs[number >> 20 & 1023]}{pairs[number >> 10 & 1023]}{pairs[number & 1023]}"
        )
        check = zlib.crc32(text.encode())
        return (
            f"{text}{pairs[check >> 25]}{pairs[check >> 15 & 1023]}{pairs[check >> 5 & 1023]}"
            f"{_ALPHABET[check & 31]}"
        )

    def seed(self) -> str:
        """The seed of a new invocation, which its handler's randomness comes from."""
        return self._entropy(SEED_BYTES).hex()

    def forget_entropy(self) -> None:
        """Read new random bytes before the next ID that needs some."""
        self._numbers.clear()
        self._last_event = (-1, 0)


def derived_id(kind: IdKind, at_ms: int, *names: str) -> str:
    """An ID that whoever knows the names can compute, so it is no secret."""
    chance = hashlib.blake2b("\0".join(names).encode(), digest_size=RANDOM_BYTES).digest()
    return Ids(lambda: at_ms, lambda count: chance * (count // RANDOM_BYTES)).new(kind)


def promise_id(service: str, key: str, name: str) -> str:
    """The ID of a promise of a workflow's key.

    It can be computed from these names, so knowing it must not be enough to settle the promise.
    """
    return derived_id("prom", 0, service, key, name)


def is_promise(awakeable_id: str) -> bool:
    """Whether it is the ID of a promise of a workflow's key, which has no instant."""
    return not parse_id(awakeable_id, "prom")


def is_invocation(source: str | None) -> TypeGuard[str]:
    """Whether the source of a wait is an invocation; otherwise it is a promise, or there is none."""
    return source is not None and source.startswith("inv")


def parse_id(text: str, kind: IdKind) -> int:
    """Check an ID and return the milliseconds since 1970 at which it was issued.

    Raises:
        MalformedId: The text is not an ID of this kind; the message says why.
    """
    prefix = f"{kind}_1"
    if not isinstance(text, str):  # probably the awakeable itself
        raise MalformedId(f"{excerpt(text)} is not {_NAMES[kind]}: it is not a string; pass its `.id`")
    if not text.startswith(prefix):
        other = text.split("_1", 1)[0]
        hint = f"; this is {_NAMES[other]}" if other in _NAMES and "_1" in text else ""
        raise MalformedId(f"{excerpt(text)} is not {_NAMES[kind]}: it must begin with {prefix!r}{hint}")
    expected = len(prefix) + _BODY_CHARS + _CHECK_CHARS
    if len(text) != expected:
        raise MalformedId(
            f"{excerpt(text)} is not {_NAMES[kind]}: it has {len(text)} characters, not {expected}; "
            "was it cut off?"
        )
    try:
        number = int(text[len(prefix) :].translate(_TO_DIGITS), 32) if text.isascii() else -1
    except ValueError:  # it has a character that is not in the alphabet
        number = -1
    if number < 0 or number & _CHECK_MASK != zlib.crc32(text[:-_CHECK_CHARS].encode()):
        raise MalformedId(f"{excerpt(text)} is not {_NAMES[kind]}: its checksum is wrong; was it mistyped?")
    return number >> _AFTER_TIME_BITS


def parse_id_of(text: str, kinds: Sequence[IdKind]) -> int:
    """Check an ID that may be of one of several kinds.

    Raises:
        MalformedId: It has none of these kinds; the message names the first one.
    """
    return parse_id(text, next((kind for kind in kinds if text.startswith(f"{kind}_1")), kinds[0]))


def by_issue(id_: str) -> str:
    """The part of an ID that sorts by time of issue, to sort IDs of several kinds by."""
    return id_.partition("_")[2]

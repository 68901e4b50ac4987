"""IDs with the instant and random bits that a test wants (`Ids` issues those of production)."""

from __future__ import annotations

import zlib

from awakeables.core.ids import IdKind

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(kind: IdKind, *, at_ms: int, entropy: bytes) -> str:
    """An ID issued at `at_ms` (milliseconds since 1970) with these 80 bits."""
    text = f"{kind}_1{_symbols(at_ms, 10)}{_symbols(int.from_bytes(entropy, 'big'), 16)}"
    return f"{text}{_symbols(zlib.crc32(text.encode()), 7)}"


def _symbols(number: int, count: int) -> str:
    """A number in Crockford's base32."""
    return "".join(ALPHABET[number >> 5 * place & 31] for place in reversed(range(count)))

"""Key rings for tests."""

from __future__ import annotations

from collections.abc import Collection

from awakeables.handlers.keyring import KeyRing


def key(key_id: str) -> bytes:
    """A key of its own for each ID."""
    return key_id.encode().ljust(32, b".")


def ring(
    *key_ids: str, lost: Collection[str] = (), seals: bool = True, accepts_clear: bool = True
) -> KeyRing:
    """A ring with these keys, of which the last seals."""
    keys = {key_id: key(key_id) for key_id in key_ids}
    current = key_ids[-1] if seals else None
    return KeyRing(current=current, keys=keys, lost=lost, accepts_clear=accepts_clear)

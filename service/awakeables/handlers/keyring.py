"""The codec that comes with us: AES-256-GCM-SIV, with several keys so that they can be changed."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

from awakeables.core.sealed import MAX_KEY_ID_BYTES
from awakeables.errors import DeclarationError, KeyMissing, MissingDependency
from awakeables.extras import extra

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12


class KeyRing:
    """Seals the values of an app with one key, and opens those that were sealed with any of them.

    AES-256-GCM-SIV (RFC 8452) with a random nonce for each value. Unlike AES-GCM it stays safe if a nonce
    comes twice, so that a key may seal any number of values that a service writes in its life.

    To change the key, add the new one to `keys` of all instances first, then make it `current`; drop the old
    one after `awakeables rekey`, or when everything that was written before is purged.

    Attributes:
        key_id: The ID of the key that seals; None: nothing is sealed.
        accepts_clear: Whether values that are not sealed are read.
        lost: The IDs of keys that are gone. What was sealed with one of them can't be read again: an
            invocation that needs it is paused, and records that contain it are not sent.
    """

    def __init__(
        self,
        *,
        current: str | None,
        keys: Mapping[str, bytes],
        lost: Collection[str] = (),
        accepts_clear: bool = True,
    ) -> None:
        """Take the keys.

        Args:
            current: The ID of the key that seals from now on. None: values are opened, and none is sealed:
                so several instances learn of a key before the first of them seals with it.
            keys: 32 random bytes each, by ID. IDs are stored in clear: they may be dates, not secrets.
            lost: As the attribute.
            accepts_clear: Values that are not sealed are read, as they were stored before there was a codec.
                Without it, one that somebody else has written to the database does not open.

        Raises:
            DeclarationError: A key has another length, an ID is too long, `current` is not in `keys`, or a
                lost key is.
            MissingDependency: The extra `encryption` is not installed.
        """
        for key_id, key in keys.items():
            if not 0 < len(key_id.encode()) <= MAX_KEY_ID_BYTES:
                raise DeclarationError(
                    f"the ID of a key has 1 to {MAX_KEY_ID_BYTES} bytes, unlike {key_id!r}"
                )
            if not isinstance(key, bytes) or len(key) != KEY_BYTES:
                raise DeclarationError(
                    f"the key {key_id!r} must be {KEY_BYTES} random bytes, such as "
                    f"secrets.token_bytes({KEY_BYTES})"
                )
        if current is not None and current not in keys:
            known = ", ".join(map(repr, keys)) or "none"
            raise DeclarationError(f"the current key {current!r} is not among the keys of the ring: {known}")
        both = sorted(set(lost) & set(keys))
        if both:
            raise DeclarationError(f"the key {both[0]!r} is in the ring: it is not lost")
        self.key_id = current
        self.accepts_clear = accepts_clear
        self.lost = frozenset(lost)
        make = _aead()
        self._keys: dict[str, AESGCMSIV] = {key_id: make(key) for key_id, key in keys.items()}

    def __repr__(self) -> str:
        return f"KeyRing(current={self.key_id!r}, keys={sorted(self._keys)}, lost={sorted(self.lost)})"

    def seal(self, content: bytes, /, *, bound_to: str) -> bytes:
        """Encrypt and authenticate a value, bound to where it is stored."""
        assert self.key_id is not None, "it only opens"
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._keys[self.key_id].encrypt(nonce, content, _bound(bound_to))

    def open(self, sealed: bytes, /, *, key_id: str, bound_to: str) -> bytes:
        """Decrypt a value.

        Raises:
            KeyMissing: The key is not in the ring.
            ValueError: It is not what was sealed with this key for this place.
        """
        key = self._keys.get(key_id)
        if key is None:
            gone = "is lost" if key_id in self.lost else "is not in the key ring"
            raise KeyMissing(f"the key {key_id!r} {gone}")
        from cryptography.exceptions import InvalidTag

        nonce, content = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            return key.decrypt(nonce, content, _bound(bound_to))
        except (InvalidTag, ValueError):
            raise ValueError(
                "it was changed, moved here from elsewhere, or sealed with another key"
            ) from None


def _bound(place: str) -> bytes:
    return place.encode("utf-8", "surrogatepass")


def _aead() -> type[AESGCMSIV]:
    """The cipher.

    Raises:
        MissingDependency: `cryptography` is not installed, or its OpenSSL is older than 3.2.
    """
    with extra("encryption", "a key ring needs"):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
    try:
        AESGCMSIV(bytes(KEY_BYTES))
    except UnsupportedAlgorithm:
        raise MissingDependency(
            "a key ring needs OpenSSL 3.2 or newer, as in the wheels of `cryptography` on PyPI"
        ) from None
    return AESGCMSIV

r"""Signatures of requests to functions: Ed25519 over the method, the time and the body.

    awakeables-signature: t=1767225600,ed25519=<64 bytes, base64url>

The signature is of `awakeables/1\n<method>\n<t>\n` and the body. Any language can make and verify it.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from awakeables.errors import AwakeablesError, DeclarationError
from awakeables.extras import extra

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

HEADER: Final = "awakeables-signature"

MAX_AGE_S: Final = 300
"""How far the clocks of the two sides may be apart, with the time that a request takes."""

_FORM = re.compile(r"t=(\d{1,12}),ed25519=([A-Za-z0-9_-]{86}(?:==)?)")


class SignatureRefused(AwakeablesError):
    """A request is not signed as it must be; the message says why, for the caller."""


class Signer:
    """Signs requests with a private key."""

    def __init__(self, pem: bytes) -> None:
        """Load the private key.

        Raises:
            DeclarationError: It is no Ed25519 private key in PEM, or it is encrypted.
            MissingDependency: `cryptography` is not installed.
        """
        serialization, ed25519 = _cryptography("remote")
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise DeclarationError(
                "it is no Ed25519 private key in PEM without a passphrase; make one with "
                "`openssl genpkey -algorithm ed25519`"
            )
        self._key: Ed25519PrivateKey = key

    def header(self, method: str, body: bytes, *, now_s: int) -> str:
        """The value of the header for a request."""
        signature = self._key.sign(_signed(method, now_s, body))
        return f"t={now_s},ed25519={urlsafe_b64encode(signature).rstrip(b'=').decode()}"


class Verifier:
    """Verifies requests that were signed with one of several keys."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Load the public keys.

        Args:
            keys: In PEM, at least one. To change the key, the new one is added first.

        Raises:
            DeclarationError: One is no Ed25519 public key in PEM, or there is none.
            MissingDependency: `cryptography` is not installed.
        """
        if isinstance(keys, str) or not keys:
            raise DeclarationError("keys= is a list of Ed25519 public keys in PEM, at least one")
        serialization, ed25519 = _cryptography("function")
        self._keys: list[Ed25519PublicKey] = []
        for place, pem in enumerate(keys):
            try:
                key = serialization.load_pem_public_key(pem.encode())
            except (ValueError, AttributeError):
                key = None
            if not isinstance(key, ed25519.Ed25519PublicKey):
                raise DeclarationError(
                    f"keys[{place}] is no Ed25519 public key in PEM; get it with `openssl pkey -pubout`"
                )
            self._keys.append(key)

    def check(self, header: str | None, method: str, body: bytes, *, now_s: float) -> None:
        """Return if the request is signed with one of the keys, within the last minutes.

        Raises:
            SignatureRefused: It is not.
        """
        if header is None:
            raise SignatureRefused(f"the request has no {HEADER} header")
        form = _FORM.fullmatch(header)
        if form is None:
            raise SignatureRefused(f"the {HEADER} header is not t=…,ed25519=…")
        signed_s = int(form[1])
        if abs(now_s - signed_s) > MAX_AGE_S:
            raise SignatureRefused(
                f"the request was signed {now_s - signed_s:.0f} s ago by this clock, and {MAX_AGE_S} s are "
                "allowed: look at the clocks of both sides"
            )
        from cryptography.exceptions import InvalidSignature

        signature = urlsafe_b64decode(form[2][:86] + "==")
        message = _signed(method, signed_s, body)
        for key in self._keys:
            try:
                key.verify(signature, message)
            except InvalidSignature:
                continue
            return
        raise SignatureRefused(
            "the signature is of another key, or the request was changed on its way: this function accepts "
            f"{len(self._keys)} keys"
        )


def _signed(method: str, at_s: int, body: bytes) -> bytes:
    return f"awakeables/1\n{method}\n{at_s}\n".encode() + body


def _cryptography(name: str) -> tuple[Any, Any]:
    with extra(name, "signed requests need"):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    return serialization, ed25519

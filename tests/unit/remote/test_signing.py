"""Signatures of requests to functions."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from awakeables.errors import DeclarationError
from awakeables.remote.signing import MAX_AGE_S, SignatureRefused, Signer, Verifier
from support.functions import PRIVATE, PUBLIC, key_pair

NOW_S = 1_800_000_000
SIGNED = Signer(PRIVATE).header("POST", b"{}", now_s=NOW_S)


def refusal(header: str | None, method: str = "POST", body: bytes = b"{}", *, now_s: float = NOW_S) -> str:
    with pytest.raises(SignatureRefused) as refused:
        Verifier([PUBLIC]).check(header, method, body, now_s=now_s)
    return str(refused.value)


def test_what_was_signed_is_accepted() -> None:
    Verifier([PUBLIC]).check(SIGNED, "POST", b"{}", now_s=NOW_S)


def test_the_signed_text_is_as_it_is_documented() -> None:
    """So that a caller in another language can make it."""
    key = load_pem_private_key(PRIVATE, None)
    signature = key.sign(f"awakeables/1\nPOST\n{NOW_S}\n".encode() + b"{}")  # type: ignore[union-attr, call-arg]
    text = urlsafe_b64encode(signature).decode()
    assert f"t={NOW_S},ed25519={text.rstrip('=')}" == SIGNED
    Verifier([PUBLIC]).check(f"t={NOW_S},ed25519={text}", "POST", b"{}", now_s=NOW_S)


def test_any_of_several_keys_will_do_so_that_keys_can_be_changed() -> None:
    private, public = key_pair()
    header = Signer(private).header("GET", b"", now_s=NOW_S)
    Verifier([PUBLIC, public]).check(header, "GET", b"", now_s=NOW_S)
    assert "another key" in refusal(header, "GET", b"")


@pytest.mark.parametrize(
    ("method", "body"), [("GET", b"{}"), ("POST", b"{} "), ("POST", b"")], ids=["method", "body", "no body"]
)
def test_nothing_of_the_request_may_be_changed(method: str, body: bytes) -> None:
    assert "changed on its way" in refusal(SIGNED, method, body)


def test_its_time_may_not_be_changed() -> None:
    assert "changed on its way" in refusal(SIGNED.replace(str(NOW_S), str(NOW_S + 1)))


@pytest.mark.parametrize("late_s", [MAX_AGE_S + 1, -MAX_AGE_S - 1])
def test_an_old_request_and_one_of_the_future_are_refused_with_the_difference(late_s: int) -> None:
    assert f"{late_s} s ago" in refusal(SIGNED, now_s=NOW_S + late_s)


@pytest.mark.parametrize("late_s", [MAX_AGE_S, -MAX_AGE_S])
def test_clocks_may_differ_by_minutes(late_s: int) -> None:
    Verifier([PUBLIC]).check(SIGNED, "POST", b"{}", now_s=NOW_S + late_s)


@pytest.mark.parametrize(
    "header", ["", "t=1", SIGNED[:-1], SIGNED + "a", SIGNED.replace("t=", "t=-"), "t=1,ed25519=" + "=" * 86]
)
def test_a_header_of_another_form_is_refused(header: str) -> None:
    assert "not t=" in refusal(header)


def test_a_request_without_a_signature_is_refused_by_the_headers_name() -> None:
    assert "awakeables-signature" in refusal(None)


def rsa() -> tuple[bytes, str]:
    key = generate_private_key(65537, 2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def encrypted() -> bytes:
    key = load_pem_private_key(PRIVATE, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize("pem", [b"", b"key", PUBLIC.encode(), rsa()[0], encrypted()])
def test_only_an_ed25519_private_key_signs(pem: bytes) -> None:
    with pytest.raises(DeclarationError, match="openssl genpkey -algorithm ed25519"):
        Signer(pem)


@pytest.mark.parametrize("pem", ["", "key", PRIVATE.decode(), rsa()[1], 1])
def test_only_ed25519_public_keys_verify(pem: str) -> None:
    with pytest.raises(DeclarationError, match=r"keys\[1\].*openssl pkey -pubout"):
        Verifier([PUBLIC, pem])


@pytest.mark.parametrize("keys", [[], PUBLIC])
def test_keys_are_a_list_of_at_least_one(keys: list[str]) -> None:
    with pytest.raises(DeclarationError, match="at least one"):
        Verifier(keys)


def test_the_keys_of_the_tests_are_a_pair() -> None:
    assert load_pem_private_key(PRIVATE, None).public_key() == load_pem_public_key(PUBLIC.encode())

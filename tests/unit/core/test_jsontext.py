"""JSON that every reader can decode, kept as it was written."""

from __future__ import annotations

import pytest

from awakeables.core.jsontext import MAX_NESTING, decode_json

LARGEST = b"1.7976931348623157e308"


@pytest.mark.parametrize(
    "text",
    [
        b"1E400",
        b"[-1e400]",
        b'{"a":[1.0e+0400]}',
        b"9" * 300 + b"e99",
        b"9" * 400 + b".5",
        b'[1, "1e10", 2e999999]',
    ],
)
def test_case_t7_a_number_beyond_every_double_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="too large for a double"):
        decode_json(text)


@pytest.mark.parametrize(
    "text",
    [b"1e308", LARGEST, b"1e-400", b'"1E400"', b'["9e12345", 1]', b"9" * 400, b"1" + b"0" * 300 + b".5"],
)
def test_case_t7_other_large_numbers_and_texts_that_look_like_them_are_taken(text: bytes) -> None:
    decode_json(text)


def test_nesting_is_bounded() -> None:
    decode_json(b"[" * MAX_NESTING + b"]" * MAX_NESTING)
    with pytest.raises(ValueError, match=f"nested deeper than {MAX_NESTING} levels"):
        decode_json(b"[" * 1000 + b"]" * 1000)

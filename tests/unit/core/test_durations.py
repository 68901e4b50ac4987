"""The one grammar of durations."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awakeables.core.durations import MAX_DURATION, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("0.5", 0.5),
        ("0", 0),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("10s", 10),
        ("2m", 120),
        ("1m500ms", 60.5),
        ("1h", 3600),
        ("1h30m", 5400),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("PT10S", 10),
        ("PT0.5S", 0.5),
        ("P1DT1H", 90_000),
        ("P1W", 604_800),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "soon",
            "-1",
            "-1s",
            "-PT1S",
            "+1",
            "1 s",
            "1s1h",
            "1h30",
            "1S",
            "ms",
            "1e3",
            "1e3s",
            "inf",
            "nan",
        ),
        *("1_000", "٣s", ".", ".5", "1.", "P", "PT", "P1DT", "PT1.S", "P1Y", "P1M", "pt1s", "00:15:00"),
        *("9" * 400, "9" * 400 + "s", "1s\n"),
    ],
)
def test_an_invalid_duration_is_refused_with_the_forms_and_without_the_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not a duration; write it as 30 \(seconds\), 500ms, .* or PT15M$"):
        parse_duration(text)


def test_the_longest_is_a_thousand_years() -> None:
    assert parse_duration("365250d") == MAX_DURATION
    for text in ("365250d1ms", "99999999999999999999w"):
        with pytest.raises(ValueError, match=r"^longer than 365250 days$"):
            parse_duration(text)


@given(st.integers(0, 10**12))
def test_milliseconds_are_exact(count: int) -> None:
    assert parse_duration(f"{count}ms") == timedelta(milliseconds=count)
    assert parse_duration(f"{count // 1000}.{count % 1000:03}") == timedelta(milliseconds=count)

"""The findings of `doctor`: one line per check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "warn", "FAULT"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        subject: What was checked, in one word.
        level: `FAULT`: the service can't work, or loses work; `warn`: it works for now.
        text: What was found, and what to do about it, in one line.
    """

    subject: str
    level: Level
    text: str

"""What the doctor says: one line per thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "warn", "FAULT"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: The thing, in a word.
        level: `FAULT`: the service can't do its work, or loses some; `warn`: it can, for now.
        text: What was found, and what to do about it, in one line.
    """

    subject: str
    level: Level
    text: str

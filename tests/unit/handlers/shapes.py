"""Types and a serde that the tests of handlers share."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel


class Parcel(BaseModel):
    id: str
    weight: int = 1


@dataclass
class Box:
    width: int
    label: str | None = None


class Backwards:
    """A user-defined serde: text, written backwards."""

    def dumps(self, value: str) -> bytes:
        return value[::-1].encode()

    def loads(self, content: bytes) -> str:
        return content.decode()[::-1]


PARCEL = {"id": "p-9", "weight": 1}

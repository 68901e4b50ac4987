"""The schema of an awakeable's ID, which several records carry."""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]

AWAKEABLE_ID: Final[Json] = {
    "description": (
        "An awakeable's ID. Its last seven characters are a checksum, which no schema can check."
    ),
    "type": "string",
    "pattern": "^prom_1[0-9a-hjkmnp-tv-z]{33}$",
}

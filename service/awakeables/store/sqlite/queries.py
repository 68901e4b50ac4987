"""The store's queries, by name."""

from __future__ import annotations

from collections.abc import Mapping

from awakeables.store.queries import load

QUERIES: Mapping[str, str] = load(__package__)

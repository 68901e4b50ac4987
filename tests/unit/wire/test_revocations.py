"""Revocations: the schema, the examples, and what the store's decisions emit."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from awakeables.core.awakeables import AwakeableRow, Watch, cancel, expire, watched
from awakeables.core.revocations import Revocation, revocation
from unit.wire.contract import AN_ID, examples, refusal

WATCH = Watch(heartbeat_ms=1000, revoke_to="shop.revocations")


@pytest.mark.parametrize("path", examples("valid", "revocation"))
def test_a_valid_one_fits_and_is_read(path: Path) -> None:
    record = path.read_bytes()
    assert refusal("revocation", record) is None
    assert msgspec.json.decode(record, type=Revocation).awakeable_id.startswith("prom_1")


@pytest.mark.parametrize("path", examples("invalid", "revocation"))
def test_an_invalid_one_is_refused_by_schema_and_reader(path: Path) -> None:
    assert refusal("revocation", path.read_bytes()) is not None
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(path.read_bytes(), type=Revocation)


def test_what_is_emitted_fits_and_a_repeat_is_the_same() -> None:
    row = watched(AwakeableRow(AN_ID, "inv", 1, deadline_ms=5), WATCH)
    for after in (expire(row, now_ms=9, horizon_ms=9), cancel(row, now_ms=9, reason="called off")):
        assert after is not None
        said = revocation(after)
        assert said is not None
        assert refusal("revocation", said.value or b"") is None
        assert (said.topic, said.key, said) == ("shop.revocations", AN_ID.encode(), revocation(after))
    assert revocation(row) is None

"""The wire contract as tests see it: schemas, examples, and whatever may stand in a record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import jsonschema_rs
import msgspec
import pytest
from hypothesis import strategies as st
from msgspec import Raw

from awakeables.core.effects import Effect, Envelope, Header, TaskFacts
from support.ids import new_id

SCHEMAS = Path(__file__).parents[3] / "schemas"
NAMES = (
    *("completion", "completion-cloudevent", "task", "task-cloudevent"),
    *("dead-letter", "verdict", "revocation"),
)
DECODER_ONLY = "decoder only: "


def _validator(name: str) -> jsonschema_rs.Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)


VALIDATORS = {name: _validator(name) for name in NAMES}


def refusal(name: str, record: bytes) -> str | None:
    """Why a record does not fit its schema, as anybody's JSON reader and validator would say."""

    def no_json(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    try:
        value = json.loads(record.decode(), parse_constant=no_json)
        json.dumps(value, ensure_ascii=False).encode()
    except ValueError as error:
        return str(error)
    misfit = next(VALIDATORS[name].iter_errors(value), None)
    return None if misfit is None else misfit.message


def examples(kind: str, name: str) -> list[Any]:
    paths = sorted((SCHEMAS / "examples" / kind / name).glob("*.json"))
    return [pytest.param(path, id=path.stem) for path in paths]


def records(name: str) -> list[bytes]:
    """The valid examples."""
    return [path.read_bytes() for path in sorted((SCHEMAS / "examples" / "valid" / name).glob("*.json"))]


AN_ID = new_id("prom", at_ms=1_767_225_600_000, entropy=bytes(range(10)))
ids = st.builds(
    lambda at_ms, entropy: new_id("prom", at_ms=at_ms, entropy=entropy),
    st.integers(0, 2**48 - 1),
    st.binary(min_size=10, max_size=10),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
LITERALS = (
    b"18446744073709551616",
    b"0.1000",
    b"1e308",
    b"-0",
    rb'"\u00e9\ud83d\ude00\u0000"',
    b'{"a":1,"a":2}',
)
json_texts = st.sampled_from(LITERALS) | st.builds(
    lambda value, ascii_only, indent: json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode(),
    json_values,
    st.booleans(),
    st.sampled_from([None, 2]),
)


@st.composite
def damaged(draw: st.DrawFn, records: list[bytes]) -> bytes:
    """A good record with a piece of it replaced."""
    record = draw(st.sampled_from(records))
    start = draw(st.integers(0, len(record)))
    end = draw(st.integers(start, min(len(record), start + 6)))
    pieces = st.binary(max_size=6) | st.sampled_from(
        [
            b"NaN",
            b"\\ud800",
            b"\xed\xa0\x80",
            b"[" * 400,
            b"null",
            b'"v":2,',
            b"9" * 5000,
            b"\x00",
            b"{}",
            b'"',
        ]
    )
    return record[:start] + draw(pieces) + record[end:]


# ── CloudEvents ─────────────────────────────────────────────────────────────────────────────

STRUCTURED: Header = ("content-type", b"application/cloudevents+json; charset=UTF-8")
JSON: Header = ("content-type", b"application/json")
BYTES: Header = ("content-type", b"application/octet-stream")
AN_EVENT = "evt_101kdvdna00000000000000000026n9af4"
A_TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
header_names = st.sampled_from(
    [f"ce_{name}" for name in ("type", "subject", "id", "source", "specversion", "attempt", "worker")]
    + ["content-type", "traceparent", ""]
)
header_values = (
    st.none()
    | st.binary(max_size=40)
    | st.sampled_from(
        [STRUCTURED[1], JSON[1], BYTES[1], b"application/cloudevents-batch+json", b"1.0", b"0.3", A_TRACE]
        + [f"awakeables.completion.{status}.v1".encode() for status in ("resolved", "rejected", "heartbeat")]
        + [AN_ID.encode(), AN_ID[:-1].encode()]
    )
)
some_headers = st.lists(st.tuples(header_names, header_values), max_size=6).map(tuple)


def as_binary(record: bytes) -> tuple[bytes | None, tuple[Header, ...]] | None:
    """A structured example in binary mode; None: its data is in base64, which is said otherwise."""
    event = msgspec.json.decode(record, type=dict[str, Raw])
    if "data_base64" in event:
        return None
    data = event.pop("data", None)
    headers = tuple((f"ce_{name}", str(json.loads(bytes(text))).encode()) for name, text in event.items())
    return None if data is None else bytes(data), headers


def task_effect(
    mode: Envelope, value: bytes = b'{"order":"o-17"}', headers: tuple[Header, ...] = ()
) -> Effect:
    return Effect(
        event_id=AN_EVENT,
        stream="inv_1",
        topic="pack-requests",
        key=AN_ID.encode(),
        value=value,
        headers=headers,
        task=TaskFacts(
            awakeable_id=AN_ID,
            reply_to="shop.completions",
            task="pack",
            envelope=mode,
            deadline_ms=1_795_262_400_000,
            source="/apps/shop",
        ),
        created_ms=1_795_248_000_000,
    )

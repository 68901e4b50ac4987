"""Limits the unpacked size of the records of a poll.

A malicious batch of 40 kB can unpack to 40 MB, and one of 1 MB to a gigabyte. aiokafka unpacks it
completely, whatever its size, and has no setting for it. So its codecs and its reader of fetched records
are replaced, for the whole process, by limited ones. The limit applies only within `bounded`: other
consumers, for example in a handler, are not affected (ADR 19).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from struct import unpack_from
from typing import Any

import cramjam
from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import PartitionRecords

from awakeables.core.bounds import MAX_UNPACKED_BYTES

FIRST_GUESS = 8
"""The first buffer is this many times as large as the batch; if it is too small, a larger one is tried."""

_NO_ROOM = "whole buffer"
"""Part of cramjam's error message if the unpacked data does not fit."""

_XERIAL_HEAD_BYTES = 16


class BatchTooLarge(Exception):
    """A batch would unpack to more than the limit."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(f"it unpacks to more than {most_bytes:,} bytes")


def unpacked_size(record: Any) -> int:
    """The bytes of a record's key, value and headers."""
    size = len(record.key or b"") + len(record.value or b"")
    for name, value in record.headers:
        size += len(name) + len(value or b"")
    return size


class _Budget:
    """The remaining size of a poll."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.left = most_bytes


_budget: ContextVar[_Budget | None] = ContextVar("budget", default=None)


@contextmanager
def bounded(most_bytes: int = MAX_UNPACKED_BYTES) -> Iterator[None]:
    """Unpack no batch beyond `most_bytes`, and end a poll once its records reach that size together.

    A larger batch raises `BatchTooLarge` when its records are read.
    """
    token = _budget.set(_Budget(most_bytes))
    try:
        yield
    finally:
        _budget.reset(token)


class _BoundedRecords(PartitionRecords):  # type: ignore[misc]  # aiokafka is not typed
    """Ends early when the poll's budget is used up; aiokafka then fetches the rest again."""

    def __next__(self) -> Any:
        budget = _budget.get()
        if budget is None:
            return super().__next__()
        if budget.left <= 0:
            raise StopIteration
        record = super().__next__()
        budget.left -= unpacked_size(record)
        return record


def _gunzip(packed: bytes, most: int) -> bytes:
    """All members, as gzip itself reads them; zeros may follow."""
    unpacked = bytearray()
    while packed:
        member = zlib.decompressobj(wbits=31)
        unpacked += member.decompress(packed, most + 1 - len(unpacked))
        if len(unpacked) > most:
            raise BatchTooLarge(most)
        if not member.eof:
            raise EOFError("the batch ends in the middle of its gzip stream")
        packed = member.unused_data.lstrip(b"\0")
    return bytes(unpacked)


def _unsnap(packed: bytes, most: int) -> bytes:
    """Each block has its size before its data."""
    if not codec._detect_xerial_stream(packed):
        sizes = [cramjam.snappy.decompress_raw_len(packed)]
    else:
        sizes, at = [], _XERIAL_HEAD_BYTES
        while at < len(packed):
            (length,) = unpack_from("!i", packed, at)
            if length <= 0:
                raise ValueError(f"a block of {length} bytes in a snappy stream")
            sizes.append(cramjam.snappy.decompress_raw_len(packed[at + 4 : at + 4 + length]))
            at += 4 + length
    if sum(sizes) > most:
        raise BatchTooLarge(most)
    unpacked: bytes = codec.snappy_decode(packed)
    return unpacked


def _into(decompress_into: Callable[[bytes, bytearray], int]) -> Callable[[bytes, int], bytes]:
    """A decoder into a limited buffer, which is small at first."""

    def decode(packed: bytes, most: int) -> bytes:
        room = min(most, max(FIRST_GUESS * len(packed), 64 * 1024))
        while True:
            buffer = bytearray(room)
            try:
                size = decompress_into(packed, buffer)
            except cramjam.DecompressionError as error:
                if _NO_ROOM not in str(error):
                    raise
                if room == most:
                    raise BatchTooLarge(most) from None
                room = min(most, FIRST_GUESS * room)
            else:
                return bytes(memoryview(buffer)[:size])

    return decode


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip_decode": _gunzip,
    "snappy_decode": _unsnap,
    "lz4_decode": _into(cramjam.lz4.decompress_into),
    "zstd_decode": _into(cramjam.zstd.decompress_into),
}
_READERS = ("record.default_records", "record.legacy_records")
_COMPILED_READERS = ("record._crecords.default_records", "record._crecords.legacy_records")


def _guarded(
    unbounded: Callable[[Any], bytes], within: Callable[[bytes, int], bytes]
) -> Callable[[Any], bytes]:
    def decode(packed: Any) -> bytes:
        budget = _budget.get()
        return unbounded(packed) if budget is None else within(bytes(packed), budget.most_bytes)

    return decode


def _install() -> None:
    guarded = {name: _guarded(getattr(codec, name), within) for name, within in _DECODERS.items()}
    for reader in (*_READERS, *_COMPILED_READERS):
        try:
            module = import_module(f"aiokafka.{reader}")
        except ImportError:  # a platform without compiled codecs
            continue
        for name, decode in guarded.items():
            if hasattr(module, name):
                setattr(module, name, decode)
    fetcher.PartitionRecords = _BoundedRecords


_install()

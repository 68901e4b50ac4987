"""A stored journal: what `GET /invocations/{id}/journal` returns, in a file that `replay` reads."""

from __future__ import annotations

import codecs
from typing import Final

import msgspec

from awakeables.core.invocations import Status
from awakeables.core.journal import Entry, Input
from awakeables.core.outcomes import Outcome
from awakeables.core.records import Record
from awakeables.errors import CallerError

FORMAT: Final = 1
"""The format of the entries (core/journal.py), and of the object around them."""


class UnreadableJournal(CallerError):
    """The file has no journal that this release can read."""


class StoredJournal(Record):
    """An invocation with its whole journal.

    Attributes:
        app: The name of the app that served it.
        exclusive: Whether it holds its key, so that no other invocation writes the state.
        status: Its status when the journal was read.
        result: How it ended; None: it had not.
    """

    app: str
    invocation_id: str
    service: str
    handler: str
    exclusive: bool
    status: Status
    entries: tuple[Entry, ...]
    result: Outcome | None = None


class _Format(Record):
    format: int


_format: msgspec.json.Decoder[_Format] = msgspec.json.Decoder(_Format)
_decoder: msgspec.json.Decoder[StoredJournal] = msgspec.json.Decoder(StoredJournal)


def _as_utf_8(content: bytes) -> bytes:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16").encode()
    return content.removeprefix(codecs.BOM_UTF8)


def decode_journal(content: bytes) -> StoredJournal:
    """Decode a stored journal: JSON in UTF-8, or in UTF-16 with its mark, as PowerShell writes to a file.

    Raises:
        UnreadableJournal: It is not one, or of another format; the message says which.
    """
    try:
        content = _as_utf_8(content)
        found = _format.decode(content).format
        if found != FORMAT:
            raise UnreadableJournal(
                f"the journal has the format {found}, and this release reads the format {FORMAT}: "
                "read it with the release that stored it, or store it again with this one"
            )
        journal = _decoder.decode(content)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise UnreadableJournal(
            f"not a journal as `awakeables show ID --journal` prints it ({error})"
        ) from None
    if not journal.entries or not isinstance(journal.entries[0], Input):
        raise UnreadableJournal("not a whole journal: its first entry is not the input")
    return journal

"""Journals of one handler that several generations of its code have written go on with today's (H11)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from awakeables.core.journal import VersionChosen
from awakeables.core.outcomes import Resolution
from awakeables.core.replay import markers_in
from awakeables.handlers.attempt import AwakeableWait, Finished
from golden.test_golden import Recorded, attempt_of, progress_of, read

FOLDER = Path(__file__).with_name("generations")
FILES = {path.stem: path for path in sorted(FOLDER.glob("*.json"))}

ENDS: dict[str, Any] = {
    "before": b"[7,1,1,2]",
    "second": b"[7,2,1,2]",
    "third": b"[7,3,1,2]",
    "rewritten": b"8",
}
"""What each has ended with, under the code of its time and under today's."""

generations = pytest.mark.parametrize("name", ENDS)


def test_there_is_a_journal_of_each_generation() -> None:
    assert FILES.keys() == ENDS.keys()
    sums = (FOLDER / "SHA256SUMS").read_text().splitlines()
    assert sorted(sums) == sorted(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in FILES.values()
    )


def news(recorded: Recorded) -> tuple[list[Any], Any]:
    """What today's code adds to a journal, and how it ends or what it waits for."""
    progress = progress_of(attempt_of(recorded, bytes))
    return list(progress.entries), progress.ended or progress.blocked_on


@generations
async def test_a_generation_is_repeated_to_its_end(name: str) -> None:
    recorded = read(FILES[name])
    added, ended = news(recorded)
    assert recorded.end == Resolution.of_json(ENDS[name])
    assert ended == Finished(result=recorded.end)
    expected = [VersionChosen(name="route", version=1)] if name == "before" else []
    assert added == expected, "that there is no marker is noted, and nothing else is new"


@generations
async def test_a_generation_that_was_cut_at_a_wait_waits_there_with_its_own_version(name: str) -> None:
    recorded = read(FILES[name])
    waits = 0
    for length in range(1, len(recorded.chunks)):
        part = replace(recorded, chunks=recorded.chunks[:length])
        if name == "before" and len(part.entries) == 1:
            continue  # it has come past nothing, and so it is of today
        added, waited = news(part)
        versions = markers_in([*part.entries, *added])
        following = recorded.entries[len(part.entries) :]
        new = [entry for entry in added if not isinstance(entry, VersionChosen)]
        assert [type(entry) for entry in new] == [
            type(entry) for entry in following if not isinstance(entry, VersionChosen)
        ][: len(new)]
        assert (
            versions
            == {
                "before": {"route": 1},
                "second": {"route": 2},
                "third": {"route": 3},
                "rewritten": {},
            }[name]
        )
        if isinstance(waited, tuple):
            waits += any(isinstance(wait, AwakeableWait) for wait in waited)
    assert waits

"""Replays stored journals with the code of an app, and finds the first difference; nothing is executed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace as copied

from awakeables.core.ids import Ids
from awakeables.core.invocations import KILLED
from awakeables.core.journal import (
    AttachRequested,
    AwakeableCreated,
    CallRequested,
    CancellationRaised,
    Entry,
    RunRequested,
    SendRequested,
    SettleRequested,
    SleepRequested,
    TimeoutRequested,
    VersionChosen,
)
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution
from awakeables.core.replay import Replay, describe
from awakeables.core.sameness import same_answer
from awakeables.core.texts import shortened
from awakeables.errors import NotFound, ReplayMismatch
from awakeables.handlers.attempt import Broken, Crashed, Finished, News, Origin, Progress
from awakeables.handlers.execution import World
from awakeables.handlers.local import LocalAttempts
from awakeables.handlers.service import App
from awakeables.testing.logs import redirected
from awakeables.testing.loop import InlineExecutor, SeededEntropy, SeededLoop, VirtualClock, end_stray_tasks
from awakeables.wire.journals import StoredJournal, UnreadableJournal, decode_journal

CONTEXT_CHARACTERS = 30
"""How much of two results is shown before the first character in which they differ."""

MOST_LISTED = 3
"""How many of the operations that are waited for are named."""

WAITED_FOR = (
    AwakeableCreated,
    CallRequested,
    AttachRequested,
    RunRequested,
    SleepRequested,
    SettleRequested,
    TimeoutRequested,
)
"""Operations whose outcomes come from outside, and may take long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a replay of one stored journal has found.

    Attributes:
        path: Its file.
        invocation_id: The invocation; empty if the file can't be read.
        handler: Its handler, as `service/handler`.
        difference: The first difference between the journal and the code, or why there is no telling; None:
            the code repeats the journal.
        is_decided: False: the file can't be read, or the handler awaits something of asyncio's own, beyond
            which a replay can't follow it.
    """

    path: str
    invocation_id: str = ""
    handler: str = ""
    difference: str | None = None
    is_decided: bool = True


def replay(app: App, paths: str | Path | Sequence[str | Path]) -> list[Replayed]:
    """Replay stored journals with the code of an app: which invocations could not go on with it?

    Each handler runs along its journal to its end, or to where the invocation waits. No action of `ctx.run`
    is executed, nothing is published or called, and nothing is stored. The replay uses a thread of its own,
    so it can also be called within a running event loop, which is blocked meanwhile.

    Args:
        app: The app with the handlers of today.
        paths: Files that `awakeables show ID --journal` has printed, and folders of them (`*.json`).

    Returns:
        One result for each journal, also for what can't be read, and for a folder without journals.
    """
    given = [paths] if isinstance(paths, str | Path) else paths
    with ThreadPoolExecutor(1, thread_name_prefix="awakeables-testing") as thread:
        return thread.submit(copy_context().run, _replay_all, app, list(map(Path, given))).result()


def _replay_all(app: App, paths: Sequence[Path]) -> list[Replayed]:
    loop = SeededLoop()
    clock = VirtualClock(loop)
    ids = Ids(clock.now_ms, SeededEntropy().bytes)
    world = World(clock=clock, ids=ids, app=app.name, reply_to=app.completions_topic)
    attempts = LocalAttempts(app, world, InlineExecutor())
    try:
        with redirected():
            return [_replay(attempts, loop, path) for path in _files(paths)]
    finally:
        loop.run_until_complete(attempts.close())
        loop.run_until_complete(end_stray_tasks())
        loop.close()


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        yield from (sorted(path.glob("*.json")) or [path]) if path.is_dir() else [path]


def _replay(attempts: LocalAttempts, loop: SeededLoop, path: Path) -> Replayed:
    try:
        stored = decode_journal(path.read_bytes())
    except IsADirectoryError:
        return Replayed(path=str(path), difference="the folder has no journals (*.json)", is_decided=False)
    except OSError as error:
        return Replayed(path=str(path), difference=f"can't be read: {error.strerror}", is_decided=False)
    except UnreadableJournal as error:
        return Replayed(path=str(path), difference=str(error), is_decided=False)
    difference, is_decided = loop.run_until_complete(_compared(attempts, stored))
    return Replayed(
        path=str(path),
        invocation_id=stored.invocation_id,
        handler=f"{stored.service}/{stored.handler}",
        difference=difference,
        is_decided=is_decided,
    )


async def _compared(attempts: LocalAttempts, stored: StoredJournal) -> tuple[str | None, bool]:
    """The first difference, and whether that is certain."""
    origin = Origin(
        invocation_id=stored.invocation_id,
        service=stored.service,
        handler=stored.handler,
        exclusive=stored.exclusive,
    )
    try:
        attempt = attempts.open(origin, stored.entries, lambda: None)
    except NotFound as error:
        return str(error), True
    try:
        # No entry is reported as durable, so no action starts.
        progress = attempt.advance(News(now_ms=attempts.world.clock.now_ms()))
        if isinstance(progress, Progress):
            return _difference(stored, attempt.replay, progress, attempt.error), True
        task = asyncio.ensure_future(progress)
        task.cancel()
        await asyncio.wait({task})
    finally:
        attempt.close()
    return "the handler awaits something of asyncio's own, beyond which a replay can't follow it", False


def _difference(
    stored: StoredJournal, replay: Replay, progress: Progress, error: BaseException | None
) -> str | None:
    """The first difference between a journal and what the handler did along it."""
    ended = progress.ended
    if isinstance(error, ReplayMismatch):
        return str(error)
    raised = f"raises {ended.kind}: {ended.message}" if isinstance(ended, Crashed | Broken) else None
    if replay.replaying:
        return replay.difference(raised or "ends")
    if stored.result is None:
        return _of_an_open_one(stored, replay, progress, raised)
    if _was_ended_from_outside(stored.result, stored.entries):
        return None
    return _of_an_ended_one(stored.result, replay, progress, raised)


def _of_an_open_one(
    stored: StoredJournal, replay: Replay, progress: Progress, raised: str | None
) -> str | None:
    """The handler may go on, as it does when it is resumed, but not without what the invocation waits for."""
    if raised is not None:
        return f"the whole journal is repeated, and then the handler {raised}"
    recorded = len(stored.entries)
    if stored.status != "suspended" or any(wait.index < recorded for wait in progress.blocked_on):
        return None
    pending = [
        entry
        for index, entry in enumerate(stored.entries)
        if isinstance(entry, WAITED_FOR) and index not in replay.outcomes and index not in replay.ran
    ]
    waits = _listed([_without_id(replay.entries[wait.index]) for wait in progress.blocked_on])
    does = "ends" if progress.ended is not None else f"waits for: {waits}"
    return f"the invocation waits here for: {_listed(pending)}; the handler {does}"


def _of_an_ended_one(result: Outcome, replay: Replay, progress: Progress, raised: str | None) -> str | None:
    """The handler must end here, too, with the same result."""
    more = [entry for entry in progress.entries if not isinstance(entry, VersionChosen)]
    if more:
        return f"the journal ends here, the code goes on with: {describe(_without_id(more[0]))}"
    if raised is not None:
        return f"the journal ends here, the handler {raised}"
    if not isinstance(progress.ended, Finished):
        waits = _listed([replay.entries[wait.index] for wait in progress.blocked_on])
        return f"the journal ends here, the handler waits for: {waits}"
    found = progress.ended.result
    if found == result or same_answer(found, result):
        return None
    then, now = _apart(_shown(result), _shown(found))
    return f"the handler ends with another result than its journal has:\n  - {then}\n  + {now}"


def _was_ended_from_outside(result: Outcome, entries: Sequence[Entry]) -> bool:
    """Whether the invocation was killed, or cancelled before its handler ran: the handler did not end it."""
    if not isinstance(result, Cancellation):
        return False
    return result == KILLED or not any(isinstance(entry, CancellationRaised) for entry in entries)


def _without_id(new: Entry) -> Entry:
    """An operation that is not in the journal, without the ID that the replay has invented for it."""
    if isinstance(new, AwakeableCreated | CallRequested | SendRequested):
        return copied(new, id="")
    return new


def _listed(entries: Sequence[Entry]) -> str:
    listed = [describe(entry) for entry in entries[:MOST_LISTED]]
    more = len(entries) - len(listed)
    return ", ".join(listed) + (f" and {more:,} more" if more else "")


def _apart(one: str, other: str) -> tuple[str, str]:
    """Two texts, cut to where they differ."""
    shorter = min(len(one), len(other))
    same = next((at for at in range(shorter) if one[at] != other[at]), shorter)
    begin = same - CONTEXT_CHARACTERS
    if begin <= 0:
        return shortened(one), shortened(other)
    return shortened(f"…{one[begin:]}"), shortened(f"…{other[begin:]}")


def _shown(result: Outcome) -> str:
    match result:
        case Resolution():
            return result.content.decode() if result.is_json else repr(result.content)
        case Rejection():
            details = bytes(result.details).decode() if result.details else ""
            return f"failure {result.code}: {result.reason} {details}".rstrip()
        case Expiry():
            return "timed out"
        case Cancellation():
            return f"cancelled: {result.reason}"

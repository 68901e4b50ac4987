"""An owner's commits to one invocation: numbered, and fenced by the version that each builds on."""

from __future__ import annotations

from msgspec.structs import replace

from awakeables.core.commands import Advance, Begin, FirstStep
from awakeables.core.invocations import Continue, Next
from awakeables.core.journal import VersionChosen, encode_chunk
from awakeables.core.replay import markers_in
from awakeables.core.versions import FIRST
from awakeables.handlers.attempt import Progress

NOTHING = Progress()


class OwnerCommits:
    """Makes the commands of one claim, in order; several may be under way at once.

    If one of them isn't applied, those behind it are fenced, because the version that they build on
    does not come to be.

    Attributes:
        owner: Whose claim it is.
        entries: How many entries the journal has once everything is committed.
    """

    def __init__(self, invocation_id: str, *, owner: str, build: str, epoch: int, version: int) -> None:
        """Go on from the version at which the invocation was claimed under this epoch."""
        self.entries = 0
        self._invocation_id = invocation_id
        self.owner = owner
        self._build = build
        self._epoch = epoch
        self._version = version
        self._number = 0

    def open(self, entries: int) -> None:
        """Begin an attempt on a journal of so many entries."""
        self.entries = entries

    def first_step(self, begin: Begin, first: Progress) -> Begin:
        """The command that creates the invocation and writes what its first step has decided."""
        self._number += 1
        chunk = begin.chunk
        if first.entries:
            self.entries += len(first.entries)
            # One chunk of the journal: the input, then what the handler asked for.
            chunk = b"%b,%b" % (chunk[:-1], encode_chunk(first.entries)[1:])
        if VersionChosen in map(type, first.entries):
            known = FIRST if begin.versions is None else begin.versions
            begin = replace(begin, versions=replace(known, markers=markers_in(first.entries)))
        step = FirstStep(
            number=self._number,
            next=Continue(),
            awakeables=first.awakeables,
            schemas=first.schemas,
            effects=first.effects,
            calls=first.calls,
            called_off=first.called_off,
        )
        return replace(begin, chunk=chunk, first=step)

    def step(self, step: Next, progress: Progress = NOTHING) -> Advance:
        """The command that writes what an attempt has done, and what is to come of the invocation."""
        self._number += 1
        version = self._version
        if progress.entries:
            self._version += 1
            self.entries += len(progress.entries)
        return Advance(
            invocation_id=self._invocation_id,
            owner=self.owner,
            epoch=self._epoch,
            version=version,
            number=self._number,
            build=self._build,
            next=step,
            chunk=encode_chunk(progress.entries) if progress.entries else None,
            awakeables=progress.awakeables,
            schemas=progress.schemas,
            effects=progress.effects,
            cancels=progress.cancels,
            calls=progress.calls,
            called_off=progress.called_off,
            writes=progress.writes,
            markers=markers_in(progress.entries) if VersionChosen in map(type, progress.entries) else {},
        )

    def roll_back(self, version: int) -> None:
        """A command can't be applied: build on the version that is stored."""
        self._version = version

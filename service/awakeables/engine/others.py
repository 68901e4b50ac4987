"""Hints between the instances that share a store: what this one sends, and how it acts on what it receives.

Hints only save waiting for a sweep. If an owner never hears of a wake-up, its next suspension is refused, so
the invocation stays runnable; a claim finds what is due; and while callers wait for invocations that other
instances run, the store is asked at intervals whether these have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from awakeables.core.instances import Hint
from awakeables.core.invocations import Invocation
from awakeables.core.replies import Wake
from awakeables.engine.member import Member
from awakeables.engine.pool import RunnerPool
from awakeables.engine.waiters import Waiters
from awakeables.errors import StoreUnavailable
from awakeables.ports import Hints, JournalReader

TURNS_PER_DOUBT = 20
"""In every so many of these turns the store is also asked about those that run here."""

ASK_S = 0.25
"""How often the store is asked about invocations that callers wait for and other instances may run."""


class HintSender:
    """Hints to the other instances."""

    def __init__(self, hints: Hints, member: Member) -> None:
        """Send what this instance has to tell."""
        self._hints = hints
        self._member = member

    def woken(self, wake: Wake) -> None:
        """Tell the owner of an invocation of an outcome."""
        assert wake.owner is not None
        hint = Hint(
            kind="woken",
            invocation_id=wake.invocation_id,
            wake=wake.wake,
            awakeable_id=wake.awakeable_id,
        )
        self._hints.send(wake.owner, hint)

    def cancelled(self, row: Invocation) -> None:
        """Tell the owner of a running invocation that was cancelled here."""
        if row.owner is not None and row.owner != self._member.id:
            self._hints.send(row.owner, Hint(kind="cancelled", invocation_id=row.id))

    def ended(self, row: Invocation) -> None:
        """Tell the instance whose caller waits that an invocation has ended or is paused."""
        if row.origin is not None and row.origin != self._member.id:
            self._hints.send(row.origin, Hint(kind="ended", invocation_id=row.id))


class OtherInstances:
    """Acts on the hints of the others."""

    def __init__(
        self,
        hints: Hints,
        store: JournalReader,
        member: Member,
        pool: RunnerPool,
        waiters: Waiters,
        *,
        on_unexpected: Callable[[Exception], None],
    ) -> None:
        """Listen to nobody yet.

        Args:
            hints: Brings hints.
            store: Reads what hints are about.
            member: This instance.
            pool: The runners of this instance.
            waiters: Its callers.
            on_unexpected: Called with unexpected errors of background work.
        """
        self._hints = hints
        self._store = store
        self._member = member
        self._pool = pool
        self._waiters = waiters
        self._on_unexpected = on_unexpected
        self._received: list[Hint] = []
        self._poked = asyncio.Event()
        self._turns = 0

    def listen(self) -> None:
        """Receive hints that are sent to this instance's current ID."""
        self._hints.listen(self._member.id, self._on_hints)

    async def run(self) -> None:
        """Act on hints, and ask the store how invocations ended that callers wait for, until cancelled."""
        self.listen()
        while True:
            try:
                async with asyncio.timeout(ASK_S):
                    await self._poked.wait()
            except TimeoutError:
                pass
            self._poked.clear()
            try:
                await self._act()
            except StoreUnavailable:
                continue  # sweeps find what was missed, and the store is asked again
            except Exception as error:
                self._on_unexpected(error)

    def _on_hints(self, hints: Sequence[Hint]) -> None:
        self._received += hints
        self._poked.set()
        if not hints:
            self._pool.look_again()

    async def _act(self) -> None:
        hints, self._received = self._received, []
        woken = {hint.awakeable_id: hint for hint in hints if hint.kind == "woken"}
        if woken:
            outcomes = await self._store.outcomes(list(woken))
            self._pool.wake(
                [
                    Wake(
                        invocation_id=woken[key].invocation_id,
                        wake=woken[key].wake,
                        awakeable_id=key,
                        outcome=outcome,
                    )
                    for key, outcome in outcomes.items()
                ]
            )
        for hint in hints:
            if hint.kind == "cancelled":
                self._pool.cancelled(hint.invocation_id)
        # A runner here tells of the end itself; but if another instance has ended its invocation, by a kill,
        # it finds out only with its next commit, which an action may keep it from for long.
        self._turns += 1
        asks_all = self._turns % TURNS_PER_DOUBT == 0
        waited_for = [key for key in self._waiters if asks_all or key not in self._pool]
        if waited_for:
            for key, outcome in (await self._store.ends(waited_for)).items():
                if outcome is None:
                    self._waiters.paused(key)
                else:
                    self._pool.detach(key)
                    self._waiters.ended(key, outcome)

"""The operators: they pause and resume invocations and handlers under load, and restart what has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal, TypeAlias

import httpx

from e2e.chaos.load import Call
from e2e.chaos.world import World

RETRY_S = 0.2
HELD_S = 1.0
"""How long something is paused."""

SPREAD_S = 2.0
"""In which all instances that work have read that a handler is paused."""

LANDS_S = 15.0
"""A request that got no answer has done what it does by then, or never does."""

Kind: TypeAlias = Literal["pause", "pause a handler", "restart"]
KINDS: tuple[Kind, ...] = ("pause", "restart", "pause a handler", "pause")


@dataclass(kw_only=True)
class Act:
    """What an operator does to one invocation, or handler.

    Attributes:
        requests: How often that was asked for: all but the last got no answer.
        accepted: Whether it was in the end; otherwise the invocation had ended.
        looks: Its status and the length of its journal, after the pause and before it was resumed.
        resumes: How often it was resumed.
        claims: How many invocations of the paused handler were claimed meanwhile; None: nobody could look.
        into: What the restart has begun.
    """

    kind: Kind
    target: str
    requests: int = 0
    accepted: bool = False
    looks: list[tuple[str, int]] = field(default_factory=list)
    resumes: int = 0
    claims: int | None = None
    into: str | None = None

    @property
    def held(self) -> bool:
        """Whether it was paused before it was resumed."""
        return any(status == "paused" for status, _ in self.looks)


class Operators:
    """One act after the other, of every kind, on what the seed decides."""

    def __init__(self, here: World, calls: Sequence[Call], chance: Random) -> None:
        self.acts: list[Act] = []
        self._here = here
        self._calls = calls
        self._chance = chance
        self._pausing = asyncio.Lock()

    async def act(self, number: int, delay_s: float) -> None:
        """The number decides on the kind. Each invocation is for one act; without one nothing is done."""
        await asyncio.sleep(delay_s)
        kind = KINDS[number % len(KINDS)]
        if kind == "pause a handler":
            async with self._pausing:
                await self._pause_handler(self._add(kind, self._chance.choice(self._calls).shape))
            return
        before = {act.target for act in self.acts}
        known = {_id_of(call): call.status is None for call in self._calls if call.invocations}
        left = [key for key, is_open in known.items() if is_open == (kind == "pause") and key not in before]
        if left:
            act = self._add(kind, self._chance.choice(left))
            await (self._pause(act) if kind == "pause" else self._restart(act))

    def _add(self, kind: Kind, target: str) -> Act:
        self.acts.append(Act(kind=kind, target=target))
        return self.acts[-1]

    async def _pause(self, act: Act) -> None:
        """It is resumed as often as a request without an answer pauses it late."""
        path = f"/invocations/{act.target}"
        act.accepted = (await self._insist("POST", f"{path}/pause", act)).status_code == 202
        for pause_s in (HELD_S, 0):
            row = (await self._insist("GET", path)).json()
            act.looks.append((row["status"], len(row["journal"])))
            await asyncio.sleep(pause_s)
        while True:
            row = (await self._insist("GET", path)).json()
            if row["status"] == "completed":
                return
            if row["status"] == "paused" or row["pausing"]:
                act.resumes += (await self._insist("POST", f"{path}/resume")).status_code == 200
            await asyncio.sleep(RETRY_S)

    async def _pause_handler(self, act: Act) -> None:
        loop = asyncio.get_running_loop()
        act.accepted = (await self._insist("POST", f"/pauses/{act.target}/pause", act)).status_code == 200
        lands_s = loop.time() + (LANDS_S if act.requests > 1 else 0)
        await asyncio.sleep(SPREAD_S)
        before = await self._claims(act.target)
        await asyncio.sleep(HELD_S)
        after = await self._claims(act.target)
        if before is not None and after is not None:
            act.claims = after - before
        while True:
            resumed = (await self._insist("POST", f"/pauses/{act.target}/resume")).json()["resumed"]
            act.resumes += act.target in resumed
            if loop.time() >= lands_s:
                return
            await asyncio.sleep(RETRY_S)

    async def _restart(self, act: Act) -> None:
        answer = await self._insist("POST", f"/invocations/{act.target}/restart", act)
        act.accepted = answer.status_code == 202
        act.into = answer.json().get("invocation_id")

    async def _claims(self, shape: str) -> int | None:
        service, _, handler = shape.partition("/")
        query = f"SELECT sum(epoch) FROM invocations WHERE service = '{service}' AND handler = '{handler}'"
        try:
            [(count,)] = await self._here.books.rows(query)
        except Exception:  # whatever the driver raises while the store is away
            return None
        return int(count or 0)

    async def _insist(self, method: str, path: str, act: Act | None = None) -> httpx.Response:
        """Ask one instance after the other, until one has answered."""
        for number in range(10_000):
            if act is not None:
                act.requests += 1
            instance = self._here.clients[number % len(self._here.clients)]
            try:
                answer = await instance.request(method, path)
            except httpx.TransportError:
                pass
            else:
                if answer.status_code != 503:
                    return answer
            await asyncio.sleep(RETRY_S)
        raise AssertionError(f"nobody answers {method} {path}")


def _id_of(call: Call) -> str:
    return min(call.invocations)

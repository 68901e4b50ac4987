"""The clients: they repeat a call until they are told how it ended, and remember what they were told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, TypeAlias, get_args

import httpx

from e2e.chaos.app import shapes
from e2e.chaos.flows import flows
from e2e.chaos.functions import tellers, vaults
from e2e.chaos.questions import SIDES, Manner, Question

RETRY_S = 0.1
LONGEST_RETRY_S = 1.0
WAIT_S = 20
Way: TypeAlias = Literal["again", "attach", "output"]
"""How a client asks for the end: the same call again, or by the invocation's ID."""


@dataclass(kw_only=True)
class Call:
    """One call that must exist, from the moment when its client began to insist on it.

    Attributes:
        shape: The handler, as in its path.
        sent: Begun by `…/send`, and asked for in some way afterwards.
        way: How it is asked for.
        keyless: Without an idempotency key, so it can't be repeated.
        lost: It has no key and was not answered: it may or may not have begun.
    """

    shape: str
    question: Question
    sent: bool
    way: Way = "again"
    keyless: bool = False
    lost: bool = False
    tries: int = 0
    invocations: set[str] = field(default_factory=set)
    status: int | None = None
    body: Any = None

    @property
    def key(self) -> str:
        return f"call-{self.question.n}"


def calls(count: int, chance: Random, *, several: bool = False, with_function: bool = False) -> list[Call]:
    """Every shape and manner, in an order that the seed decides; for several instances in every way."""
    services = (shapes, flows, *((vaults, tellers) if with_function else ()))
    names = [f"{service.name}/{name}" for service in services for name in sorted(service.handlers)]
    planned = [
        Call(
            shape=names[n % len(names)],
            question=Question(
                n=n,
                to=chance.choice(SIDES),
                manner=chance.choice(get_args(Manner)),
                takes_s=chance.choice((0.0, 0.0, 0.05, 0.5, 2.0)),
                second=n // len(names) % 2 == 1,
            ),
            sent=chance.random() < 0.25,
        )
        for n in range(count)
    ]
    if several:
        for call in planned:
            call.way = chance.choice(get_args(Way))
            call.keyless = not call.sent and chance.random() < 0.25
    return planned


class Client:
    """Insists on calls; each try goes to the next instance."""

    def __init__(self, instances: Sequence[httpx.AsyncClient]) -> None:
        self._instances = instances

    async def insist(self, call: Call) -> None:
        """Repeat the call, under one key, until its end is told."""
        if call.keyless:
            begun = await self._try(call, "POST", f"/{call.shape}")
            if begun is None or begun.status_code == 503:
                call.lost = True
                return
            answer = begun
        else:
            answer = await self._begun(call)
        if answer.status_code == 202:
            [invocation_id] = call.invocations
            how = "output" if call.way == "output" else "attach"
            answer = await self._until(call, "GET", f"/invocations/{invocation_id}/{how}", final=True)
        call.status, call.body = answer.status_code, answer.json()

    async def _begun(self, call: Call) -> httpx.Response:
        """The answer to a call that can be repeated; 202: its end is still to be asked for."""
        path = f"/{call.shape}"
        if call.sent:
            answer = await self._until(call, "POST", f"{path}/send")
            assert answer.status_code == 202, answer.text
            if call.way != "again":
                return answer
        return await self._until(call, "POST", path, final=call.way == "again")

    async def _until(self, call: Call, method: str, path: str, *, final: bool = False) -> httpx.Response:
        pause_s = RETRY_S
        while True:
            answer = await self._try(call, method, path)
            if answer is not None and answer.status_code != 503 and not (final and answer.status_code == 202):
                return answer
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_RETRY_S)

    async def _try(self, call: Call, method: str, path: str) -> httpx.Response | None:
        instance = self._instances[(call.question.n + call.tries) % len(self._instances)]
        call.tries += 1
        headers = {"prefer": f"wait={WAIT_S}"}
        if not call.keyless:
            headers["idempotency-key"] = call.key
        try:
            answer = await instance.request(
                method, path, json=call.question.model_dump() if method == "POST" else None, headers=headers
            )
        except httpx.TransportError:
            return None
        if "invocation-id" in answer.headers:
            call.invocations.add(answer.headers["invocation-id"])
        return answer

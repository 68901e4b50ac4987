"""The clients: they repeat a call until they are told how it ended, and remember what they were told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any, get_args

import httpx

from e2e.chaos.app import SIDES, Manner, Question, shapes

RETRY_S = 0.1
UNANSWERED = ("unanswered", "race")


@dataclass(kw_only=True)
class Call:
    """One call that must exist, from the moment when its client began to insist on it."""

    shape: str
    question: Question
    sent: bool
    """Begun by `…/send`, and not looked after until the end."""
    tries: int = 0
    invocations: set[str] = field(default_factory=set)
    status: int | None = None
    body: Any = None

    @property
    def key(self) -> str:
        return f"call-{self.question.n}"


def calls(count: int, chance: Random) -> list[Call]:
    """Every shape and manner, in an order that the seed decides."""
    names = sorted(shapes.handlers)
    return [
        Call(
            shape=names[n % len(names)],
            question=Question(
                n=n,
                to=chance.choice(SIDES),
                manner=chance.choice(get_args(Manner)),
                takes_s=chance.choice((0.0, 0.0, 0.05, 0.5, 2.0)),
            ),
            sent=chance.random() < 0.25,
        )
        for n in range(count)
    ]


async def insist(http: httpx.AsyncClient, call: Call) -> None:
    """Repeat the call, under one key, until its end is told."""
    if call.sent:
        answer = await _until_answered(http, call, f"/shapes/{call.shape}/send")
        assert answer.status_code == 202, answer.text
    # The same key attaches to the same invocation.
    answer = await _until_answered(http, call, f"/shapes/{call.shape}", final=True)
    call.status, call.body = answer.status_code, answer.json()


async def _until_answered(
    http: httpx.AsyncClient, call: Call, path: str, *, final: bool = False
) -> httpx.Response:
    while True:
        call.tries += 1
        try:
            answer = await http.post(
                path,
                json=call.question.model_dump(),
                headers={"idempotency-key": call.key, "prefer": "wait=20"},
            )
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code != 503:
            if "invocation-id" in answer.headers:
                call.invocations.add(answer.headers["invocation-id"])
            if not final or answer.status_code != 202:
                return answer
        await asyncio.sleep(RETRY_S)

"""A world in which trees of calls are made."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from awakeables.core.awakeables import AwakeableRow, Completion
from awakeables.core.commands import Idempotency
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.errors import Overloaded
from awakeables.wire.completions import encode_completion
from awakeables.wire.tasks import decode_task
from simulation.trees import handlers
from simulation.trees.handlers import answer_to, function_of
from simulation.trees.programs import Node, Shape, trees
from simulation.world import Faults, Process, WatchedLoop, World, live_to_the_end
from support.ids import new_id

FAULTS = Faults(crash_every_s=6, cancel=0, kill=0, restart=0, hold=0, freeze=0)
"""What changes no result. Trees have no deadlines, so there is nothing to freeze over."""


class TreeWorld(World):
    """Everything of one run.

    Attributes:
        roots: The trees.
    """

    app = handlers.app

    def __init__(self, seed: int, loop: WatchedLoop, roots: list[Node], instances: int) -> None:
        super().__init__(seed, loop, FAULTS, instances)
        self.roots = roots
        self._asked: dict[str, Any] = {}
        self._looked_at = 0

    async def _call(self, process: Process, calls: int) -> int:
        """Begin the next tree, some time: once, however often it has to be tried."""
        if not calls or self.chance.random() < 0.7:
            return 0
        root = self.roots[-calls]
        handler = self.app.declared(function_of(root))
        content = handler.accept(root.model_dump_json().encode())
        key = None if root.kind == "service" else root.key
        # A run is begun once per key by itself.
        once = None if root.kind == "run" else Idempotency(scope="roots", key=root.path, fingerprint="")
        try:
            async with asyncio.timeout(2):
                begun = await process.api.begin(handler, content, key=key, idempotency=once)
        except (TimeoutError, asyncio.CancelledError, Overloaded):
            return 0
        self.begun.append(begun.id)
        return 1

    def _pending(self) -> list[AwakeableRow]:
        """Those whose task was published."""
        for value, headers in self.broker.tasks[self._looked_at :]:
            task = decode_task(value, headers)
            self._asked[task.awakeable_id] = task.payload
        self._looked_at = len(self.broker.tasks)
        return [row for row in super()._pending() if row.id in self._asked]

    def _answers(self, awakeable_id: str, *, honest: bool) -> list[bytes | None]:
        """The same answer, late or several times, and what is none."""
        self._pending()
        good = self._resolve(awakeable_id)
        if honest:
            return [good]
        stranger = new_id("prom", at_ms=self.clock.now_ms(), entropy=self.entropy.bytes(10))
        misfit, other, beat = (
            msgspec.json.encode({"awakeable_id": id_, **body})
            for id_, body in (
                (awakeable_id, {"status": "resolved", "value": "x"}),
                (stranger, {"status": "resolved", "value": 1}),
                (awakeable_id, {"status": "heartbeat", "progress": 1}),
            )
        )
        menu: list[list[bytes | None]] = [
            [good],
            [good, good],
            [good, misfit],
            [misfit, good],
            [beat, good, beat],
            [other, good],
            [None, good],
        ]
        return self.chance.choice(menu) if self.chance.random() < 0.98 else []

    def _resolve(self, awakeable_id: str) -> bytes:
        asked = handlers.Question.model_validate(msgspec.json.decode(self._asked[awakeable_id]))
        body: Resolution | Rejection = Resolution.of_json(b"%d" % answer_to(asked.at))
        if asked.is_rejected:
            body = Rejection(reason=asked.at, code=409)
        return encode_completion(Completion(awakeable_id=awakeable_id, body=body, source=""))


def grow(seed: int, shape: Shape, *, instances: int = 1) -> TreeWorld:
    """Run the trees of a seed to their end, with this many instances of the service at a time."""
    roots = trees(seed, shape)
    return live_to_the_end(seed, lambda loop: TreeWorld(seed, loop, roots, instances), calls=shape.count)

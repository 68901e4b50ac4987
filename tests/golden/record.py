"""Adds a journal: `python -m golden.record NAME…` in tests/ (see README.md)."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

import msgspec
from msgspec import Raw

from awakeables.core import awakeables, invocations
from awakeables.core.awakeables import Completion
from awakeables.core.journal import AwakeableCreated
from awakeables.core.outcomes import Cancellation, Outcome, Rejection, Resolution, encode_outcome
from awakeables.testing.bench import Bench, Process, quick
from awakeables.testing.loop import SeededLoop
from golden.handlers import SCRIPTS, Script, app

V1 = Path(__file__).with_name("v1")
SUMS = V1 / "SHA256SUMS"


async def play(name: str, script: Script) -> bytes:
    """The journal of one invocation, as its file."""
    usual = "golden" if script.key is None else "golden-thing"
    bench = Bench(service=usual if script.of == "golden" else script.of)
    async with bench.running(app, quick()) as process:
        invocation_id = await bench.begin(
            process, name, script.input, key=script.key, scheduled_ms=script.scheduled_ms
        )
        if script.cancelled:
            await bench.status(invocation_id, "suspended")
            await process.api.cancel(invocation_id)
        for number, answer in enumerate(script.answers):
            await bench.status(invocation_id, "suspended")
            asked = [e.id for e in await bench.journal(invocation_id) if isinstance(e, AwakeableCreated)]
            await settle(bench, process, asked[number], answer)
        await asyncio.sleep(script.lasts_s)
        row = bench.row(invocation_id)
        assert row.status in ("completed", "suspended"), row
    chunks = [chunk for _, chunk in sorted(bench.store.tables.journals[invocation_id].items())]
    end = b"null" if row.result is None else encode_outcome(row.result)
    return b"\n".join(
        [
            b'{"handler":"%s",' % name.encode(),
            b'"invocation_id":"%s",' % invocation_id.encode(),
            b'"chunks":[',
            b",\n".join(chunks),
            b"],",
            b'"end":%s}\n' % end,
        ]
    )


async def settle(bench: Bench, process: Process, awakeable_id: str, answer: Outcome) -> None:
    if isinstance(answer, Resolution | Rejection):
        source = f"golden:{awakeable_id}"
        await process.api.settle(Completion(awakeable_id=awakeable_id, body=answer, source=source))
        return
    # Nothing cancels a single awakeable yet; the journal's format knows it all the same.
    assert isinstance(answer, Cancellation)
    tables, now_ms = bench.store.tables, bench.clock.now_ms()
    row = awakeables.cancel(tables.awakeables[awakeable_id], now_ms=now_ms, reason=answer.reason)
    assert row is not None
    tables.awakeables[row.id] = row
    woken = invocations.wake(tables.invocations[row.invocation_id], now_ms=now_ms)
    tables.invocations[woken.id] = woken


def main(names: list[str]) -> None:
    for name in names:
        path = V1 / f"{name}.json"
        if path.exists():
            raise SystemExit(f"{path} is there already; journals are never recorded again")
        loop = SeededLoop(0)
        try:
            path.write_bytes(loop.run_until_complete(play(name, SCRIPTS[name])))
        finally:
            loop.close()
        assert msgspec.json.decode(path.read_bytes(), type=dict[str, Raw])
        with SUMS.open("a") as sums:
            sums.write(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
        print(f"wrote {path}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""What the type checker must refuse: each line below has the error that it must give.

`warn_unused_ignores` is on, so a line that is no error any more fails the check.
"""

from __future__ import annotations

from datetime import timedelta

from awakeables import Context


def takes_two(order: str, count: int) -> None: ...


async def refused(ctx: Context) -> None:
    number: str = await ctx.awakeable(int)  # type: ignore[assignment]
    await ctx.run("too few", takes_two, "o-1")  # type: ignore[arg-type]
    await ctx.run("wrong", takes_two, 1, 2)  # type: ignore[arg-type,call-arg]
    ctx.publish("pack", number, awakeable="prom_1…")  # type: ignore[arg-type]
    ctx.awakeable(int, timeout=5)  # type: ignore[call-overload]
    ctx.sleep(timedelta(1), 2)  # type: ignore[call-arg]

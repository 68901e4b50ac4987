"""Which function decides which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from awakeables.core import orders
from awakeables.core.answers import Answer
from awakeables.core.decide import advancing, claiming, operating, publishing, settling
from awakeables.core.orders import Member
from awakeables.core.rows import Changes, Rows

Decision: TypeAlias = Callable[[Any, Rows, int, Changes], Answer]
"""`(order, rows, now_ms, changes) -> answer`."""

SearchDecision: TypeAlias = Callable[[Any, Any, int, Changes], Answer]
"""`(order, found, now_ms, changes) -> answer`."""

BY_KEY: Mapping[type[Member], Decision] = {
    orders.Advance: advancing.advance,
    orders.Begin: advancing.begin,
    orders.Settle: settling.settle,
    orders.MarkPublished: publishing.mark_published,
    orders.MarkRefused: publishing.mark_refused,
    orders.Release: claiming.release,
    orders.ReplayDry: claiming.replay_dry,
    orders.TakePartitions: claiming.take_partitions,
    orders.Resume: operating.resume,
    orders.Cancel: operating.cancel,
    orders.Purge: operating.purge,
    orders.Resend: publishing.resend_letter,
    orders.Republish: publishing.republish,
    orders.Skip: operating.skip,
    orders.Probe: operating.probe,
}
"""Orders that name the rows that they are about."""

BY_SEARCH: Mapping[type[Member], SearchDecision] = {
    orders.Claim: claiming.claim,
    orders.Expire: claiming.expire,
    orders.ClaimEffects: publishing.claim_effects,
    orders.Kill: operating.kill,
    orders.PurgeLetters: operating.purge_letters,
}
"""Orders whose rows the store searches."""


def searches(order: Member) -> SearchDecision | None:
    """The decision over found rows; None: the order names its rows."""
    if isinstance(order, orders.Release) and order.ids is None:
        return claiming.release_others
    return BY_SEARCH.get(type(order))

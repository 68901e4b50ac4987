"""The function that decides each command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from awakeables.core import commands
from awakeables.core.commands import Command
from awakeables.core.decide import (
    advancing,
    claiming,
    operating,
    publishing,
    queueing,
    scheduling,
    settling,
    subscribing,
)
from awakeables.core.replies import Reply
from awakeables.core.rows import Changes, Rows

Decision: TypeAlias = Callable[[Any, Rows, int, Changes], Reply]
"""`(command, rows, now_ms, changes) -> reply`."""

SearchDecision: TypeAlias = Callable[[Any, Any, int, Changes], Reply]
"""`(command, found, now_ms, changes) -> reply`."""

BY_KEY: Mapping[type[Command], Decision] = {
    commands.Advance: advancing.advance,
    commands.Begin: advancing.begin,
    commands.Settle: settling.settle,
    commands.BeginBatch: subscribing.begin_batch,
    commands.MarkPublished: publishing.mark_published,
    commands.MarkRefused: publishing.mark_refused,
    commands.Release: claiming.release,
    commands.ReplayDry: claiming.replay_dry,
    commands.TakePartitions: claiming.take_partitions,
    commands.PlacePartitions: subscribing.place_partitions,
    commands.PausePartitions: subscribing.pause_partitions,
    commands.PlaceSchedules: scheduling.place_schedules,
    commands.Fire: scheduling.fire,
    commands.BeginQueued: scheduling.begin_queued,
    commands.Trigger: scheduling.trigger,
    commands.PauseSchedule: scheduling.pause_schedule,
    commands.Resume: operating.resume,
    commands.PauseInvocation: operating.pause,
    commands.PauseHandlers: operating.pause_handlers,
    commands.Restart: operating.restart,
    commands.Cancel: operating.cancel,
    commands.Kill: operating.kill,
    commands.TakeTickets: queueing.take_tickets,
    commands.PauseKey: queueing.pause_key,
    commands.ResumeKey: queueing.resume_key,
    commands.EditState: queueing.edit_state,
    commands.Purge: operating.purge,
    commands.Resend: publishing.resend_dead_letter,
    commands.Republish: publishing.republish,
    commands.Skip: operating.skip,
    commands.Probe: operating.probe,
}
"""Commands that name the rows that they need."""

BY_SEARCH: Mapping[type[Command], SearchDecision] = {
    commands.Claim: claiming.claim,
    commands.TakeOver: claiming.take_over,
    commands.Expire: claiming.expire,
    commands.ClaimEffects: publishing.claim_effects,
    commands.PurgeDeadLetters: operating.purge_dead_letters,
    commands.ExpireState: operating.expire_state,
}
"""Commands whose rows the store searches for."""

"""Settles completions: validate, commit, wake. HTTP, handlers and Kafka batches all end here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from awakeables.core.awakeables import Completion, Verdict
from awakeables.core.commands import Settle
from awakeables.core.ids import Ids
from awakeables.core.replies import Fenced, SettledAll, Unchecked, Wake
from awakeables.engine.committer import Committer
from awakeables.engine.horizon import Horizon
from awakeables.engine.payloadvalidator import PayloadValidator
from awakeables.errors import OwnershipLost
from awakeables.telemetry.metrics import Metrics


class Settlement:
    """Settles completions, and wakes the invocations that wait for them."""

    def __init__(
        self,
        committer: Committer,
        validator: PayloadValidator,
        horizon: Horizon,
        *,
        ids: Ids,
        verdicts_topic: str,
        metrics: Metrics,
        on_wakes: Callable[[Sequence[Wake]], None],
        on_effects: Callable[[], None],
    ) -> None:
        """Settle through a committer.

        Args:
            committer: Commits the commands.
            validator: Validates values before they are committed.
            horizon: What deadlines are compared with.
            ids: Issues the event IDs of published verdicts.
            verdicts_topic: Where verdicts are published; empty: nowhere.
            metrics: Where verdicts are counted.
            on_wakes: Called with the invocations that a commit has woken.
            on_effects: Called when a commit has queued effects that nobody has claimed.
        """
        self._committer = committer
        self._validator = validator
        self._horizon = horizon
        self._ids = ids
        self._verdicts_topic = verdicts_topic
        self._metrics = metrics
        self._on_wakes = on_wakes
        self._on_effects = on_effects

    async def settle(self, completion: Completion) -> Verdict | None:
        """Settle one completion that does not come from Kafka; None: a heartbeat, which was kept.

        Raises:
            StoreRefused: The store will never take the value.
        """
        settled = None
        while settled is None:
            validated = await self._validator.validate([completion])
            settled = await self.commit(Settle(completions=tuple(validated)))
        verdict = settled.verdicts[0]
        if not settled.again:
            self._metrics.settled(
                "handler" if completion.source.kind == "handler" else "http",
                {None if verdict is None else verdict.kind: 1},
            )
        return verdict

    async def commit(self, order: Settle) -> SettledAll | None:
        """Commit validated completions, and wake the invocations that wait for them.

        The horizon and the publishing of verdicts, the same for all commands, are filled in here.

        Returns:
            The verdicts; or None if nothing was committed because a row has appeared since the
            validation, which must be repeated.

        Raises:
            OwnershipLost: The batch's partition has another reader, or the batch was settled before.
            StoreRefused: The store will never take the command.
        """
        verdict_ids: tuple[str, ...] = ()
        if self._verdicts_topic:
            verdict_ids = tuple([self._ids.new("evt") for _ in order.completions])
        answer = await self._committer.submit(
            replace(
                order,
                held_back_to_ms=self._horizon.held_back_to_ms(),
                verdicts_to=self._verdicts_topic,
                verdict_ids=verdict_ids,
            )
        )
        match answer:
            case SettledAll():
                self._on_wakes(answer.wakes)
                if self._verdicts_topic:
                    self._on_effects()
                return answer
            case Unchecked():
                return None
            case Fenced():
                raise OwnershipLost("the batch's partition has another reader, or it was settled before")
            case _:
                raise TypeError(f"Settle was answered with {type(answer).__name__}")

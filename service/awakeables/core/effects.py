"""Effects: records to publish after the commit that decided them (K3)."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from awakeables.core.acts import Acts
from awakeables.core.awakeables import Verdict
from awakeables.core.records import Record

Header: TypeAlias = tuple[str, bytes | None]
Envelope: TypeAlias = Literal["json", "none", "cloudevents", "cloudevents-binary"]
"""The envelope around a task's payload: our own, none, or a CloudEvent in either mode."""

EffectState: TypeAlias = Literal["unsent", "failed"]
EffectKind: TypeAlias = Literal["task", "event", "dead-letter", "verdict", "resend", "revocation"]
"""What an effect publishes: an awakeable's task, another record of a handler, a copy of a dead letter, a
verdict, a dead letter that is sent back to its original topic, or that nobody waits for a task any more."""

EFFECT_STATES: tuple[EffectState, ...] = ("unsent", "failed")


class TaskFacts(Record):
    """What a task's record contains besides the payload.

    Attributes:
        deadline_ms: Set by the store, by its own clock, when it inserts the awakeable.
        source: The `source` attribute of a CloudEvent.
        heartbeat_ms: The longest time between two heartbeats; None: any.
        revoke_to: The topic where it is said if nobody waits any more; None: it is not said.
    """

    awakeable_id: str
    reply_to: str
    task: str | None = None
    envelope: Envelope = "json"
    deadline_ms: int | None = None
    source: str | None = None
    heartbeat_ms: int | None = None
    revoke_to: str | None = None


_decode_facts = msgspec.json.Decoder(TaskFacts).decode
_decode_older = msgspec.json.Decoder(dict[str, Any]).decode
_OLDER_FORMS: dict[bool | str, Envelope] = {
    True: "json",
    False: "none",
    "structured": "cloudevents",
    "binary": "cloudevents-binary",
}


def task_facts_from(content: bytes) -> TaskFacts:
    """Decode a task's facts from JSON; earlier releases wrote `enveloped` instead of `envelope`."""
    if b'"enveloped"' not in content:
        return _decode_facts(content)
    older = _decode_older(content)
    form = _OLDER_FORMS[older.pop("enveloped")]
    return msgspec.convert(older | {"envelope": form}, TaskFacts)


class Effect(Record):
    """A record to publish after the commit that decided it (K3).

    Attributes:
        event_id: The same each time it is sent.
        stream: The effects of one stream are published in order. It is the ID of an invocation or a dead
            letter; for verdicts, of an awakeable.
        value: The payload; a task's envelope is added when it is published.
        task: Set for a task. If Kafka refuses the record, the awakeable is rejected with `publish-failed`.
        verdict: Set for a verdict, which is encoded when it is published; None in rows of older
            releases, where `value` is the encoded verdict.
    """

    event_id: str
    stream: str
    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()
    task: TaskFacts | None = None
    created_ms: int = 0
    kind: EffectKind = "event"
    verdict: Verdict | None = None

    @property
    def invocation_id(self) -> str | None:
        """The invocation whose handler has published it; None: nobody's handler has."""
        return self.stream if self.kind in ("task", "event") else None


class QueuedEffect(Record):
    """An effect in the outbox: unsent, or failed with the reason for which Kafka refused it."""

    effect: Effect
    state: EffectState
    reason: str | None = None
    acts: Acts = ()

    @property
    def id(self) -> str:
        return self.effect.event_id

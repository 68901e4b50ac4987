"""Effects: records that are to be published once their commit is done (K3)."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from awakeables.core.acts import Acts
from awakeables.core.awakeables import Verdict
from awakeables.core.records import Record

Header: TypeAlias = tuple[str, bytes | None]
Envelope: TypeAlias = Literal["json", "none", "cloudevents", "cloudevents-binary"]
"""What is put around a task's payload: an envelope of our own, nothing, or a CloudEvent in either mode."""

EffectState: TypeAlias = Literal["unsent", "failed"]
EffectKind: TypeAlias = Literal["task", "event", "dead-letter", "verdict", "resend"]
"""What an effect is: a task of an awakeable, another record of a handler, the copy of a dead letter, a
verdict, or a dead letter that goes to the topic that it came from once more."""

EFFECT_STATES: tuple[EffectState, ...] = ("unsent", "failed")


class TaskFacts(Record):
    """What a task tells its worker beside the payload.

    Attributes:
        deadline_ms: Filled in by the store, whose clock decides it, when it inserts the row.
        source: Of a CloudEvent: who publishes it.
    """

    awakeable_id: str
    reply_to: str
    task: str | None = None
    envelope: Envelope = "json"
    deadline_ms: int | None = None
    source: str | None = None


_decode_facts = msgspec.json.Decoder(TaskFacts).decode
_decode_older = msgspec.json.Decoder(dict[str, Any]).decode
_OLDER_FORMS: dict[bool | str, Envelope] = {
    True: "json",
    False: "none",
    "structured": "cloudevents",
    "binary": "cloudevents-binary",
}


def task_facts_from(content: bytes) -> TaskFacts:
    """Read the facts of a task as JSON, also those of an earlier release, whose form is `enveloped`."""
    if b'"enveloped"' not in content:
        return _decode_facts(content)
    older = _decode_older(content)
    form = _OLDER_FORMS[older.pop("enveloped")]
    return msgspec.convert(older | {"envelope": form}, TaskFacts)


class Effect(Record):
    """A record to be published once its commit is done (K3).

    Attributes:
        event_id: Stable over resends.
        stream: Effects of one stream are published in order: an invocation's ID, the ID of a
            dead letter, or, for verdicts, of an awakeable.
        value: The payload; the envelope of a task is put around it when it is published.
        task: Of a task. Its awakeable is rejected with `publish-failed` if Kafka refuses the record.
        verdict: Of a verdict, which is encoded when it is published; None in rows of older releases,
            whose value it is.
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


class QueuedEffect(Record):
    """An effect as it stands in the outbox: unsent, or failed with the reason of Kafka's refusal."""

    effect: Effect
    state: EffectState
    reason: str | None = None
    acts: Acts = ()

    @property
    def id(self) -> str:
        return self.effect.event_id

"""Kafka's Metadata request of version 12, which has the IDs of topics; aiokafka 0.14 ends at version 5.

A topic that is deleted and created again under its name is another topic, with another ID. Nothing else
shows that once it has more records than the old one had.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from io import BytesIO

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v4, MetadataRequest_v5
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

NO_ID = bytes(16)


class TopicId(AbstractType):  # type: ignore[type-arg,misc,unused-ignore]
    """The ID of a topic as text, written as Kafka's own tools write it; None: the broker has none."""

    @classmethod
    def encode(cls, value: str | None) -> bytes:
        return NO_ID if value is None else base64.urlsafe_b64decode(value + "==")

    @classmethod
    def decode(cls, data: BytesIO) -> str | None:
        content = data.read(len(NO_ID))
        return None if content == NO_ID else base64.urlsafe_b64encode(content).decode().rstrip("=")


class MetadataWithIds(Response):  # type: ignore[misc]  # aiokafka is not typed
    """Brokers and topics, with the topics' IDs."""

    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString()),
                ("port", Int32),
                ("rack", CompactString()),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString()),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString()),
                ("topic_id", TopicId),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class MetadataRequestWithIds(RequestStruct):  # type: ignore[misc]  # aiokafka is not typed
    """Asks for topics by name."""

    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 12
    RESPONSE_TYPE = MetadataWithIds
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", TopicId), ("topic", CompactString()), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class TopicsRequest(Request[MetadataRequest_v4 | MetadataRequest_v5 | MetadataRequestWithIds]):  # type: ignore[misc]
    """Asks a broker for topics and creates none by asking; with their IDs, if the broker knows those."""

    API_KEY = 3

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)

    def build(self, request_struct_class: type[RequestStruct]) -> RequestStruct:
        """The request in the highest version that the broker and we know."""
        if request_struct_class is MetadataRequestWithIds:
            topics: list[tuple[None, str, dict[int, bytes]]] = [(None, name, {}) for name in self._names]
            return MetadataRequestWithIds(topics, False, False, {})
        return request_struct_class(self._names, False)

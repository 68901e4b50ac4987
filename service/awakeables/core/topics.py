"""Names of topics."""

from __future__ import annotations

import functools
import re

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


DEAD_LETTERS = ".dlq"
"""The suffix of a dead-letter topic's name; the rest is the name of the topic its records come from."""


@functools.lru_cache(maxsize=1000)
def is_topic_name(text: str) -> bool:
    """Whether Kafka accepts this as a topic name."""
    return _NAME.fullmatch(text) is not None and text not in {".", ".."}


def is_task_topic_name(text: str) -> bool:
    """Whether Kafka accepts this as a topic name, also with the suffix of its dead-letter topic."""
    return is_topic_name(text) and is_topic_name(text + DEAD_LETTERS)

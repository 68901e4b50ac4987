"""What a topic can be called."""

from __future__ import annotations

import functools
import re

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


DEAD_LETTERS = ".dlq"
"""How the name of a topic of dead letters ends; the rest is that of the topic that they come from."""


@functools.lru_cache(maxsize=1000)
def is_topic_name(text: str) -> bool:
    """Would Kafka take this as the name of a topic?"""
    return _NAME.fullmatch(text) is not None and text not in {".", ".."}


def is_task_topic_name(text: str) -> bool:
    """Would Kafka take this as the name of a task topic, and that of its dead letters, too?"""
    return is_topic_name(text) and is_topic_name(text + DEAD_LETTERS)

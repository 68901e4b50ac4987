"""What a topic can be called."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


def is_topic_name(text: str) -> bool:
    """Would Kafka take this as the name of a topic?"""
    return _NAME.fullmatch(text) is not None and text not in {".", ".."}

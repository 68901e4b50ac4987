"""The topics that a worker may answer to.

A task names the topic of its answer. So a producer with access to a task topic could make a worker
publish to any topic that the worker's credentials allow; hence the topic must match a pattern.
"""

from __future__ import annotations

import re

from awakeables.core.topics import is_topic_name

COMPLETIONS = "*.completions"
"""The completions topics of all apps, as they are named by default."""


class ReplyTopics:
    """Patterns of topic names, in which `*` matches any characters."""

    def __init__(self, patterns: str) -> None:
        """Read `pattern[,pattern…]`.

        Raises:
            ValueError: There are none, or one can't match any topic name.
        """
        self._patterns = tuple(pattern.strip() for pattern in patterns.split(",") if pattern.strip())
        if not self._patterns:
            raise ValueError("no reply topics; list some, or *.completions for those of all apps")
        for pattern in self._patterns:
            if not is_topic_name(pattern.replace("*", "x")):
                raise ValueError(f"{pattern!r} is not a topic name; `*` matches any characters")
        alternatives = (re.escape(pattern).replace(r"\*", ".*") for pattern in self._patterns)
        self._expression = re.compile("|".join(alternatives))

    def allow(self, topic: str) -> bool:
        """Whether answers may be sent to this topic."""
        return self._expression.fullmatch(topic) is not None

    def refusal(self, topic: str) -> str:
        """Why a topic may not be answered to, and what to do."""
        return (
            f"reply_to {topic[:249]!r} is not one of the topics that this worker answers to "
            f"({', '.join(self._patterns)}); to allow it, add it to AWAKEABLES_WORKER_REPLY_TOPICS"
        )


ANY_COMPLETIONS = ReplyTopics(COMPLETIONS)

"""What was checked, and what violates it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from awakeables.core.records import Record

MOST_NAMED = 20
"""How many violations of one invariant are kept by name; the others are only counted."""


class Invariant(Record):
    """Something that holds after every commit.

    Attributes:
        number: The promise or hard case of docs/architecture.md that it belongs to.
        title: What holds.
    """

    number: str
    title: str


INVARIANTS: tuple[Invariant, ...] = (
    Invariant(number="A1", title="an awakeable is pending, or has one outcome"),
    Invariant(number="A2", title="each verdict is counted, and agrees with the state"),
    Invariant(number="A3", title="the awakeables of journals and tasks have their rows"),
    Invariant(number="A4", title="an accepted value is of its awakeable's kind, and the schema is kept"),
    Invariant(number="J1", title="each journal is whole and can be read"),
    Invariant(number="J2", title="each outcome is delivered once, as its row has it"),
    Invariant(number="J3", title="each run has at most one result"),
    Invariant(number="K1", title="each partition has a position, an epoch and an owner"),
    Invariant(number="K2", title="each dead letter is of its own record, or counts several"),
    Invariant(number="K3", title="each record to publish has its stream and its place in it"),
    Invariant(number="O1", title="what runs, and nothing else, has an owner, who lives"),
    Invariant(number="O3", title="what has not ended is due, runs, is paused, or waits"),
    Invariant(number="case 1", title="each outcome was counted as a wake-up"),
    Invariant(number="case 4", title="what has ended has no pending awakeable"),
    Invariant(number="case 8", title="nothing is left of an invocation that was deleted"),
    Invariant(number="case 9", title="a task that Kafka refused has settled its awakeable"),
    Invariant(number="case 12", title="a cancellation is raised once at most"),
)


class Violation(Record):
    """An invariant that does not hold.

    Attributes:
        invariant: Its number.
        id: The ID of the row, or what names it otherwise.
        text: What is wrong, in one line.
    """

    invariant: str
    id: str
    text: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.id} {self.text}"


class Findings:
    """Counts what is checked, and keeps the first violations of each invariant.

    Attributes:
        looked_at: How many rows or entries each invariant was held against.
        counts: How many violations each has.
        rows: How many rows were read, by table.
        named: The first violations of each invariant.
        notes: What is remarkable and violates nothing.
        task_topics: The topics to which tasks of the awakeables were published.
    """

    def __init__(self) -> None:
        self.looked_at: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.named: dict[str, list[Violation]] = {each.number: [] for each in INVARIANTS}
        self.notes: list[str] = []
        self.task_topics: set[str] = set()

    @property
    def violations(self) -> list[Violation]:
        """The violations that are kept by name, in the order of the invariants."""
        return [violation for named in self.named.values() for violation in named]

    def look(self, *numbers: str, count: int = 1) -> None:
        """Count what these invariants are held against."""
        for number in numbers:
            self.looked_at[number] += count

    def add(self, violations: Iterable[Violation]) -> None:
        for violation in violations:
            self.counts[violation.invariant] += 1
            named = self.named[violation.invariant]
            if len(named) < MOST_NAMED:
                named.append(violation)
